"""The recipe of a made-up adapter. Light: no torch, as what writes results is started often."""

from typing import Any

from llava_dvc.config import Config
from llava_dvc.recipe import Recipe, versions


def recipe(cfg: Config, **changed: Any) -> Recipe:
    """Of an adapter that `cfg` would make, but for what is `changed`."""
    values = {
        "backbone": cfg.backbone,
        "image": cfg.image,
        "question": "How many people?",
        "decode": "median",
        "max_count": 60,
        "temperature": 1.0,
        "versions": versions(),
    }
    return Recipe(**values | changed)
