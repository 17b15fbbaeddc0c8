"""Where an adapter comes from: a folder, the Hub, or the model registry."""

from pathlib import Path

from huggingface_hub import snapshot_download

from llava_dvc.errors import UserError
from llava_dvc.load_errors import HTTPError, first_line

DEFAULT_ADAPTER = Path("models/adapter")
"""The train stage writes its adapter here."""
CHAMPION = "champion"
ADAPTER_FILES = ["*.json", "*.jinja", "*.model", "adapter_model.safetensors"]


def find_adapter(adapter: str | Path) -> Path:
    """Returns the folder of `adapter`: a folder, a Hub id, or `champion`.

    A Hub id is `owner/name` or `owner/name@revision`. Its files are downloaded to the Hub's cache.
    Raises UserError when the download fails. Does not check that a folder exists.
    """
    name = str(adapter)
    if name == CHAMPION and not Path(name).is_dir():
        from llava_dvc.tracking.registry import champion_folder  # late: loads pandas

        return champion_folder()
    if isinstance(adapter, Path) or not _is_hub_id(name):
        return Path(name)
    return _download_adapter(name)


def _is_hub_id(name: str) -> bool:
    if Path(name) == DEFAULT_ADAPTER or Path(name).exists():
        return False
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _download_adapter(name: str) -> Path:
    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository, revision=revision or None, allow_patterns=ADAPTER_FILES
        )
    except (OSError, ValueError, HTTPError) as error:
        raise UserError(
            f"{name}: is not a folder, and cannot be downloaded from the Hub "
            f"({first_line(error)}). Correct the name or HF_ENDPOINT, or set HF_TOKEN for a "
            "private repository."
        ) from None
    return Path(folder)
