"""Loads an adapter after the checks of its backbone."""

from pathlib import Path

from peft import PeftModel

from llava_dvc.checks.hardware import require_hardware
from llava_dvc.model.adapter import load_adapter
from llava_dvc.model.encoder import Encoder
from llava_dvc.recipe import Recipe


def load_checked_adapter(folder: Path) -> tuple[PeftModel, Encoder, Recipe]:
    """Backbone and adapter, the encoder and the recipe, as `load_adapter` returns them.

    Raises UserError if this machine cannot load the backbone.
    """
    require_hardware(Recipe.read(folder).backbone)
    return load_adapter(folder)
