"""Params with a few values changed, as `dvc exp run -S` would."""

import yaml

from llava_dvc.config import Config


def overridden(cfg: Config, settings: list[str]) -> Config:
    """`section.key=value` over the params, checked as the file is."""
    values = cfg.model_dump()
    for setting in settings:
        path, _, text = setting.partition("=")
        *sections, key = path.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[key] = yaml.safe_load(text)
    return Config.model_validate(values)
