import re

import pytest
import yaml

from llava_dvc.config import UserError, flatten, load_config
from tests.conftest import ROOT


@pytest.fixture
def params(tmp_path):
    """Writes a params.yaml with one value changed, and reads it."""

    def read(section, key, value):
        values = yaml.safe_load((ROOT / "presets" / "tiny.yaml").read_text())
        place = values[section] if section else values
        if value is KeyError:
            del place[key]
        else:
            place[key] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_config(path)

    return read


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_loads(path):
    assert load_config(path).train.learning_rate > 0


def test_the_asked_for_recipe():
    cfg = load_config(ROOT / "presets" / "llava-1.5-7b.yaml")
    train = cfg.train
    assert (train.learning_rate, train.batch_size, train.epochs) == (1.4e-5, 8, 1)
    assert (train.accumulation, train.checkpointing) == (1, True)
    assert (cfg.backbone.quantization, cfg.adapter.method) == ("nf4", "lora")
    assert cfg.backbone.revision == "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"


def test_a_rate_without_a_point_is_a_number(params):
    assert params("train", "learning_rate", "2e-4").train.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("image", "geometri", "pad", "image.geometri: unknown key; did you mean image.geometry?"),
        ("image", "geometry", "padd", "image.geometry: is 'padd', expected 'pad', 'squash' or"),
        ("train", "epochs", KeyError, "train.epochs: missing; add it"),
        ("train", "epochs", "many", "train.epochs: is 'many'"),
        ("adapter", "r", 0, "adapter.r: is 0"),
        ("split", "val", 0.8, "split.eval + split.val is 1: nothing is left to train on"),
        ("", "sed", 3, "sed: unknown key; did you mean seed?"),
    ],
)
def test_a_mistake_is_one_line(params, section, key, value, line):
    with pytest.raises(UserError, match=re.escape(line)) as caught:
        params(section, key, value)
    assert len(str(caught.value).splitlines()) == 1


def test_no_file(tmp_path):
    with pytest.raises(UserError, match="Run from the repository's root"):
        load_config(tmp_path / "params.yaml")


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}
