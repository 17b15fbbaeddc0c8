import json
import os
import re

import pytest
import yaml
from jsonschema import Draft202012Validator

from llava_dvc.config import flatten, load_config, params_schema
from llava_dvc.errors import UserError
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


PRESETS = sorted((ROOT / "presets").glob("*.yaml"))
MODELINE = "# yaml-language-server: $schema="


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_every_preset_loads(path):
    assert load_config(path).train.learning_rate > 0


def test_the_schema_for_editors_is_that_of_the_types():
    """After a change of llava_dvc/config.py: `python -m llava_dvc.config > params.schema.json`."""
    assert (ROOT / "params.schema.json").read_text() == params_schema()


@pytest.mark.parametrize("path", [ROOT / "params.yaml", *PRESETS], ids=lambda p: p.name)
def test_an_editor_finds_the_schema_and_accepts_the_file(path):
    first, _, _ = path.read_text().partition("\n")
    assert first.startswith(MODELINE)
    schema = json.loads((path.parent / first.removeprefix(MODELINE)).read_text())  # as editors do
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(path.read_text()))) == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("image", "geometri", "pad"),
        ("image", "geometry", "padd"),
        ("image", "tiles", [2, 5]),
        ("image", "tiles", [2]),
        ("train", "epochs", 0),
        ("train", "checkpointing", "autos"),
        ("train", "launcher", "bash"),
        ("split", "eval", 1),
    ],
)
def test_an_editor_marks_a_mistake(section, key, value):
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values[section][key] = value
    (error,) = Draft202012Validator(json.loads(params_schema())).iter_errors(values)
    assert [section, key][: len(error.path)] == list(error.path)[:2]


def test_an_editor_explains_a_setting():
    settings = json.loads(params_schema())["$defs"]["Train"]["properties"]
    assert settings["batch_size"]["description"] == "Frames per batch, over all processes."


def test_the_plain_recipe():
    cfg = load_config(ROOT / "presets" / "llava-1.5-7b.yaml")
    train = cfg.train
    assert (train.learning_rate, train.batch_size, train.epochs) == (1.4e-5, 8, 1)
    assert (train.accumulation, train.checkpointing) == (1, True)
    assert (cfg.backbone.quantization, cfg.adapter.method) == ("nf4", "lora")
    assert cfg.backbone.revision == "b234b804b114d9e37bb655e11cbbb5f5e971b7a9"


@pytest.mark.parametrize("value", [True, False, "auto", 1, 12])
def test_checkpointing_is_a_choice_or_a_number_of_layers(params, value):
    assert params("train", "checkpointing", value).train.checkpointing is value


def test_a_rate_without_a_decimal_point_is_a_number(params):
    assert params("train", "learning_rate", "2e-4").train.learning_rate == 2e-4


@pytest.mark.parametrize(
    ("section", "key", "value", "line"),
    [
        ("image", "geometri", "pad", "image.geometri: unknown key. Did you mean image.geometry?"),
        (
            "image",
            "geometry",
            "padd",
            "image.geometry: is 'padd', expected 'pad', 'squash' or 'crop'. Did you mean pad?",
        ),
        (
            "image",
            "geometry",
            "round",
            "image.geometry: is 'round', expected 'pad', 'squash' or 'c",
        ),
        (
            "image",
            "tiles",
            [2],
            "image.tiles: is [2]. Expected columns and rows, each 1 to 4, as in",
        ),
        ("image", "tiles", [2, 5], "image.tiles: is [2, 5]. Expected columns and rows, each 1"),
        ("image", "tiles", [0, 1], "image.tiles: is [0, 1]. Expected columns and rows, each 1"),
        ("image", "tiles", [True, 1], "image.tiles: is [True, 1]. Expected columns and rows, each"),
        ("image", "tiles", 2, "image.tiles: is 2. Expected columns and rows, each 1 to 4"),
        ("image", "tiles", "2x2", "image.tiles: is '2x2'. Expected columns and rows, each 1 to 4"),
        ("split", "strategy", "Temporal", "or 'camera'. Did you mean temporal?"),
        ("split", "eval", 0.0, "split.eval: is 0.0. Input should be greater than 0"),
        ("split", "val", 0.0, "split.val: is 0.0. Input should be greater than 0"),
        ("split", "strategy", "by day", "is 'by day', expected 'temporal', 'blocked', 'random' or"),
        ("split", "eval", 1, "split.eval: is 1. Input should be less than 1"),
        ("split", "eval", float("nan"), "split.eval: is nan. Input should be a finite number"),
        ("split", "eval", "0,2", "split.eval: is '0,2'. Input should be a valid number"),
        ("data", "on_error", "skipp", "data.on_error: is 'skipp', expected 'stop' or 'skip'. Did"),
        ("data", "max_skipped", -1, "data.max_skipped: is -1"),
        ("data", "exclude", "a.jpg", "data.exclude: is 'a.jpg', expected a list"),
        ("data", "exclude", [7], "data.exclude.0: is 7. Input should be a valid string"),
        ("train", "checkpointing", "autos", "or a whole number above 0. Did you mean auto?"),
        ("train", "checkpointing", -3, "is -3, expected 'auto', true, false or a whole number"),
        ("backbone", "threads", 10**12, "threads: is 1000000000000. Input should be less than or"),
        ("train", "workers", 10**12, "train.workers: is 1000000000000. Input should be less than"),
        ("train", "batch_size", 2**32, "batch_size: is 4294967296. Expected at most 4294967295."),
        ("train", "learning_rate", "1e300", "is '1e300'. Expected at most 4294967295."),
        ("train", "epochs", True, "train.epochs: is True. Expected a number"),
        ("train", "epochs", 1.5, "train.epochs: is 1.5. Input should be a valid integer"),
        ("train", "learning_rate", float("inf"), "train.learning_rate: is inf. Input should be a"),
        ("adapter", "r", None, "adapter.r: is None. Input should be a valid integer"),
        ("", "train", 5, "train: is 5, expected a section with keys of its own"),
        ("", "split", KeyError, "split: missing. Add it"),
        ("train", "epochs", KeyError, "train.epochs: missing. Add it"),
        ("train", "epochs", "many", "train.epochs: is 'many'"),
        ("adapter", "r", 0, "adapter.r: is 0"),
        ("split", "val", 0.8, "split.eval: is 0.2 and split.val is 0.8, together 1. Lower them"),
        ("", "sed", 3, "sed: unknown key. Did you mean seed?"),
    ],
)
def test_a_mistake_is_one_line(params, section, key, value, line):
    with pytest.raises(UserError, match=re.escape(line)) as caught:
        params(section, key, value)
    assert len(str(caught.value).splitlines()) == 1


def test_impossible_combinations_are_refused(tmp_path):
    values = yaml.safe_load((ROOT / "presets" / "tiny.yaml").read_text())
    values["split"] |= {"strategy": "random", "train_until": 40}
    values["image"] |= {"geometry": "crop", "drop_border": True}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(UserError) as caught:
        load_config(tmp_path / "params.yaml")
    first, second = str(caught.value).splitlines()
    assert "split.train_until: is 40, but split.strategy is random" in first
    assert "image.drop_border: is true, but image.geometry is crop" in second


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no sections"),
        (b"- a\n", "has no sections"),
        (b"seed: [", "not valid YAML"),
        (b"\xff\xfe", "not valid YAML|is not UTF-8"),
        (b"seed: \xff", "byte 6 is not UTF-8"),
        (b"seed: 2024-99-99", r"not valid YAML \(month must be in 1..12\). Correct it there."),
        (b"seed: " + b"1" * 5000, r"not valid YAML \(Exceeds the limit"),
        (b"seed: !!timestamp x", "not valid YAML"),
        (b"[" * 1500, "not valid YAML"),
    ],
)
def test_a_file_without_sections_is_refused(tmp_path, content, reason):
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        load_config(tmp_path / "params.yaml")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("seed", "value"),
    [("4294967296", "4294967296"), ("0x" + "f" * 6000, "a number of thousands of digits")],
)
def test_a_seed_that_numpy_does_not_take_is_refused(tmp_path, seed, value):
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub(r"(?m)^seed: .*$", f"seed: {seed}", text))
    line = f"params.yaml: seed: is {value}. Expected at most 4294967295."
    with pytest.raises(UserError, match=re.escape(line)):
        load_config(tmp_path / "params.yaml")


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot be read \(Is a directory\). Correct the path."):
        load_config(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="Run from the repository's root"):
        load_config(tmp_path / "params.yaml")


def test_flatten():
    assert flatten({"a": 1, "b": {"c": {"d": 2}}}) == {"a": 1, "b.c.d": 2}


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "params.yaml")
    with pytest.raises(UserError, match=r"params\.yaml: is not a regular file\. Copy presets"):
        load_config(tmp_path / "params.yaml")
