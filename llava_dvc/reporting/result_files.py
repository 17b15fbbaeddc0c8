"""The files of a result: those of the workspace, or those of an experiment in DVC's cache."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pydantic import ValidationError

from llava_dvc.config import Config
from llava_dvc.errors import UserError, not_found, one_line
from llava_dvc.pipeline_file import PIPELINE, declared_paths

LOCK = Path("dvc.lock")
REPORTED = ("baseline", "answers", "evaluate", "predictions", "plots")
"""Names of `vars` in dvc.yaml: the files that a report reads, besides dvc.lock and PREPARED."""
PREPARED = "report.json"


@contextmanager
def result_folder(experiment: str | None) -> Iterator[Path]:
    """Yields the folder that holds the files of a result by their paths in dvc.yaml.

    For None this is the workspace. For an experiment, a branch or a commit it is a copy that ends
    with the block. Raises UserError if there is no such experiment or DVC's cache lacks its files.
    """
    if not PIPELINE.is_file():
        raise UserError(f"{PIPELINE}: not found. Run from the repository's root.")
    if experiment is None:
        yield Path()
        return
    with TemporaryDirectory(prefix="llava-dvc-report-") as folder:
        _copy(experiment, Path(folder))
        yield Path(folder)


def _copy(experiment: str, folder: Path) -> None:
    """Copies the reported files of an experiment from git and DVC's cache."""
    from dvc.api import DVCFileSystem  # takes a second
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    paths = declared_paths()
    names = [str(LOCK), f"{paths['prepared']}/{PREPARED}", *(paths[name] for name in REPORTED)]
    files = DVCFileSystem(rev=experiment)
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            files.get(name, str(target), recursive=True)
        except RevError:
            raise UserError(
                f"{experiment}: no such experiment or commit. `llava-dvc runs` lists them."
            ) from None
        except (DvcException, OSError) as error:
            raise UserError(
                f"{experiment}: {name} is not in DVC's cache ({one_line(str(error))}). Run "
                f"`dvc exp apply {experiment}` and `dvc repro`."
            ) from None


def locked_stages(folder: Path) -> dict[str, Any]:
    """The stages of dvc.lock. Raises UserError if a stage that is reported has not run."""
    path = folder / LOCK
    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
        missing = [
            name for name in ("prepare", "baseline", "train", "evaluate") if not stages[name]
        ]
    except FileNotFoundError:
        raise not_found(path) from None
    except KeyError as error:
        raise UserError(f"{path}: has no stage {error}. Run `dvc repro`.") from None
    except (yaml.YAMLError, TypeError):
        raise UserError(f"{path}: is not whole. Run `make repro`, which repairs it.") from None
    if missing:
        raise UserError(f"{path}: has no stage {missing[0]}. Run `dvc repro`.")
    return dict(stages)


def locked_config(stages: dict[str, Any], publish: dict[str, Any]) -> Config:
    """The settings that made the results, from dvc.lock. params.yaml may have changed since.

    `publish` decides no result, and takes its values from params.yaml. Raises UserError if the
    settings are those of another version.
    """
    sections: dict[str, Any] = {"publish": publish}
    for stage in ("prepare", "baseline", "train", "evaluate"):
        sections |= stages[stage].get("params", {}).get("params.yaml", {})
    try:
        return Config.model_validate(sections)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise UserError(
            f"{LOCK}: {where}: is not a setting as this version has it. Run `dvc repro`."
        ) from None


def locked_md5(stages: dict[str, Any], stage: str, kind: str, path: str) -> str:
    """DVC's md5 of a dependency (`deps`) or an output (`outs`) in dvc.lock; empty if not there."""
    return next((str(e.get("md5")) for e in stages[stage].get(kind, []) if e["path"] == path), "")
