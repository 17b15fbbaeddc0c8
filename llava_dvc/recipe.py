"""An adapter's recipe.json, and the digest of its weights. Imports no torch."""

import json
from importlib.metadata import version
from pathlib import Path

from pydantic import ValidationError

from llava_dvc import config, errors
from llava_dvc.config import Section
from llava_dvc.files import file_digest

WEIGHTS = "adapter_model.safetensors"
RECIPE = "recipe.json"
PACKAGES = (
    "accelerate", "bitsandbytes", "datasets", "numpy", "peft", "pillow", "tokenizers", "torch",
    "transformers", "trl",
)  # fmt: skip
"""Packages whose versions decide an adapter's bytes."""


class Recipe(Section):
    """Everything that decides an adapter's answers, besides its weights and processor."""

    backbone: config.Backbone
    image: config.Image
    question: str
    decode: str
    """How one number is read from the distribution over counts."""
    max_count: int
    """The largest count an answer can be."""
    temperature: float
    """Calibrates the distribution over counts. Fitted on the validation frames."""
    versions: dict[str, str]
    """Versions of the packages that made the adapter."""

    def write(self, folder: Path) -> None:
        text = json.dumps(self.model_dump(), indent=2, ensure_ascii=False, sort_keys=True)
        (folder / RECIPE).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "Recipe":
        """Raises UserError when `folder` has no recipe, or an invalid one."""
        path = folder / RECIPE
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise errors.recipe_not_found(path) from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise errors.invalid_recipe(path, where, first["msg"]) from None


def versions() -> dict[str, str]:
    return {name: version(name) for name in PACKAGES}


def adapter_sha256(folder: Path) -> str:
    """Identifies an adapter by its weights."""
    return file_digest(folder / WEIGHTS)
