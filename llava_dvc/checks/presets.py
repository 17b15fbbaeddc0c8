"""The preset that the settings are nearest to, and what differs from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llava_dvc.config import Config, flatten, load_config

PRESETS = Path("presets")


class Difference(NamedTuple):
    """A setting that differs from the preset."""

    setting: str
    preset: Any
    value: Any


def nearest_preset(cfg: Config, folder: Path = PRESETS) -> tuple[str, list[Difference]]:
    """The name of the preset with the fewest differences, and these. `none` without presets."""
    values = _settings(cfg)
    found = [
        (path.stem, _differences(_settings(load_config(path)), values))
        for path in sorted(folder.glob("*.yaml"))
    ]
    return min(found, key=lambda one: len(one[1]), default=("none", []))


def _settings(cfg: Config) -> dict[str, Any]:
    return flatten(cfg.model_dump(mode="json"))


def _differences(preset: Mapping[str, Any], values: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, preset[name], value)
        for name, value in values.items()
        if value != preset[name]
    ]
