"""Changes values of the params, like `dvc exp run -S`."""

import yaml

from llava_dvc.config import Config


def overridden(cfg: Config, settings: list[str]) -> Config:
    """Returns `cfg` with `section.key=value` settings, checked like params.yaml."""
    values = cfg.model_dump()
    for setting in settings:
        path, _, text = setting.partition("=")
        *sections, key = path.split(".")
        place = values
        for section in sections:
            place = place[section]
        place[key] = yaml.safe_load(text)
    return Config.model_validate(values)
