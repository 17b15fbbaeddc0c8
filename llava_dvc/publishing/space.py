"""`llava-dvc space`: a Hugging Face Space around a published adapter, a page that anyone can try.

The Space needs nothing but its own files and, for a backbone of the Hub, that backbone.
"""

import json
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, SpaceCardData
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from llava_dvc.errors import UserError
from llava_dvc.files import BYTECODE, new_folder
from llava_dvc.publishing.folder import EXAMPLES, verify_manifest
from llava_dvc.recipe import MANIFEST, READ_FILES, Recipe, read_object

GRADIO = "6.31.0"
PACKAGES = (
    "accelerate", "bitsandbytes", "huggingface_hub", "jinja2", "numpy", "peft", "pydantic",
    "pyyaml", "safetensors", "scipy", "tokenizers", "torch", "tqdm", "transformers",
)  # fmt: skip
"""What counting imports. Pillow is missing: Gradio allows only an older one than training has."""
PACKAGE = Path(__file__).parents[1]
"""The folder llava_dvc."""
TEMPLATES = Path(__file__).with_name("space_files")
FILES = ("app.py", "README.md", "requirements.txt")
HARDWARE = {"cpu": "cpu-basic", "cuda": "a10g-small"}
"""What the Hub suggests to whoever copies the Space, by the backbone's device."""


def write_space(published: Path, folder: Path) -> None:
    """Writes the Space of the adapter in `published` into the new `folder`.

    Raises UserError if `folder` holds something, if `published` is not whole, or if its backbone is
    a folder elsewhere.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not empty. Name a new folder.")
    verify_manifest(published)
    if not (published / "adapter_config.json").is_file():
        raise UserError(f"{published}: holds no adapter. Name the folder of an adapter.")
    backbone = _local_backbone(Recipe.read(published), published)
    with new_folder(folder) as space:
        for name in (*READ_FILES, MANIFEST):
            if (published / name).is_file():
                _copy_file(published / name, space / "adapter" / name)
        if (published / EXAMPLES).is_dir():
            shutil.copytree(published / EXAMPLES, space / EXAMPLES)
        if backbone:
            shutil.copytree(backbone, space / backbone)
        code = shutil.ignore_patterns(BYTECODE)
        shutil.copytree(PACKAGE, space / "llava_dvc", ignore=code)
        _write_files(published, space, backbone)


def _local_backbone(recipe: Recipe, published: Path) -> Path | None:
    """The backbone's folder, None for a backbone of the Hub."""
    if recipe.backbone.revision:
        return None
    path = Path(recipe.backbone.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"{published}/recipe.json: backbone.name: is {path}, and a Space can hold only "
            "a folder below this one. Move it, name it in params.yaml, and train again."
        )
    if not path.is_dir():
        raise UserError(f"{path}: not found. Run from the folder that holds this backbone.")
    return path


def _copy_file(source: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)


def _write_files(published: Path, space: Path, backbone: Path | None) -> None:
    """Writes the page, the card and the requirements."""
    card = ModelCard.load(published / "README.md").data
    title = f"Count people: {card.model_name}"
    values = {
        "title": title,
        "description": _description(published),
        "examples": [f"{EXAMPLES}/{path.name}" for path in sorted((space / EXAMPLES).glob("*"))],
        "local_backbone": backbone and backbone.as_posix(),
        "card_data": _card_data(card, title, Recipe.read(published)),
        "packages": {name: version(name).partition("+")[0] for name in PACKAGES},
        "gradio": GRADIO,
    }
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True
    )
    templates.globals["quoted"] = json.dumps
    for name in FILES:
        text = templates.get_template(f"{name}.jinja").render(values)
        (space / name).write_text(text, encoding="utf-8")


def _description(published: Path) -> str:
    metrics = read_object(published / "metrics" / "evaluate.json")
    return (
        f"Its counts are off by {metrics['mae']:.2f} people on average, on "
        f"{metrics['frames']} frames of its camera that it was not trained on. On frames of other "
        "cameras it can be wrong by far more. It gives every picture a number. A picture is "
        "deleted within twenty minutes."
    )


def _card_data(card: Any, title: str, recipe: Recipe) -> SpaceCardData:
    """The head of README.md, which the Hub reads."""
    of_hub: dict[str, Any] = {"models": [recipe.backbone.name]} if recipe.backbone.revision else {}
    return SpaceCardData(
        title=title,
        emoji="👥",
        colorFrom="blue",
        colorTo="gray",
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        license=card.license,
        suggested_hardware=HARDWARE[recipe.backbone.device],
        pinned=False,
        **of_hub,
    )
