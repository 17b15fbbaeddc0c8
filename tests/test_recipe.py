"""The types and bounds of recipe.json, and the one line of each refusal."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_dvc.errors import UserError
from llava_dvc.recipe import Recipe, Scene, Smoothing
from tests.recipes import recipe


@pytest.fixture(autouse=True)
def small_numbers() -> None:
    """A recipe is read before a backbone is loaded, which takes numbers below 1e-307 for zero."""
    torch.set_flush_denormal(False)


@pytest.fixture
def folder(cfg, tmp_path: Path) -> Path:
    recipe(cfg).write(tmp_path)
    return tmp_path


def change(folder: Path, *keys: str, value: Any) -> None:
    values = section = json.loads((folder / "recipe.json").read_text())
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = value
    (folder / "recipe.json").write_text(json.dumps(values))


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        Recipe.read(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert text.startswith(f"{folder / 'recipe.json'}: ")
    return text.removeprefix(f"{folder / 'recipe.json'}: ")


FLAT = base64.b64encode(bytes(64 * 48)).decode()
"""A map of edges without an edge."""
AGAIN = "; use a complete adapter folder, or build it with `dvc repro`"


@pytest.mark.parametrize(
    ("keys", "value", "line"),
    [
        ("temperature", 0, "temperature: is 0: Input should be greater than or equal to 0.001"),
        ("temperature", -1.5, "temperature: is -1.5: Input should be greater than or equal to 0."),
        ("temperature", float("nan"), "temperature: is nan: Input should be a finite number"),
        ("temperature", float("inf"), "temperature: is inf: Input should be a finite number"),
        ("temperature", 1e-308, "temperature: is 1e-308: Input should be greater than or equal"),
        ("temperature", "1.5", "temperature: is '1.5': Input should be a valid number"),
        ("temperature", True, "temperature: is True: Expected a number"),
        ("smoothing", 2.0, "smoothing: is 2.0: Input should be an object"),
        ("smoothing", {"spread": 2.0}, "smoothing.temperature: missing"),
        ("smoothing", {"spread": 0, "temperature": 1.0}, "smoothing.spread: is 0: Input should"),
        ("smoothing", {"spread": 1, "temperature": 1e9}, "smoothing.temperature: is 1000000000.0"),
        ("scenes", [], "scenes: is []: List should have at least 1 item"),
        (
            "scenes",
            [{"camera": None, "mean": FLAT, "spread": "AAAA", "limit": 1.0}],
            "scenes.0.spread: is 'AAAA': Value error, it must have 64 x 48 bytes in base64",
        ),
        ("max_count", 0, "max_count: is 0: Input should be greater than or equal to 1"),
        ("max_count", 10_000, "max_count: is 10000: Input should be less than or equal to 9999"),
        ("max_count", 60.5, "max_count: is 60.5: Input should be a valid integer"),
        ("max_count", "60", "max_count: is '60': Input should be a valid integer"),
        ("max_count", None, "max_count: is None: Input should be a valid integer"),
        ("flip", "true", "flip: is 'true': Input should be a valid boolean"),
        ("decode", "beam", "decode: is 'beam': Input should be 'median', 'mean', 'mode' or 'gree"),
        ("decode", ["median"], "decode: is ['median']: Input should be"),
        ("question", " ", "question: is ' ': Value error, it must be a question without <image>"),
        ("question", "<image> How many?", "question: is '<image> How many?': Value error, it must"),
        ("question", "\ud800", "cannot be read ("),
        ("backbone.threads", 10**6, "backbone.threads: is 1000000: Input should be less than or"),
        ("backbone.device", "tpu", "backbone.device: is 'tpu': Input should be 'cpu' or 'cuda'"),
        ("backbone.name", "", "backbone.name: is '': String should have at least 1 character"),
        ("image", None, "image: is None: Input should be "),
        ("image.geometry", "crop\n" * 999, "image.geometry: is 'crop\\ncrop"),
        ("extra\nkey", 1, "extra key: is 1: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_value_is_refused(folder, keys, value, line):
    change(folder, *keys.split("."), value=value)
    said = refusal(folder)
    assert said.startswith(line)
    assert said.endswith(AGAIN)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"", "cannot be read (not JSON: "),
        (b"{", "cannot be read (not JSON: "),
        (b"[]", "cannot be read (not a JSON object)"),
        (b"\xff\xfe{}", "cannot be read (not JSON: "),
        (b"{}", "backbone: missing"),
        (b'{"max_count": ' + b"9" * 5000 + b"}", "cannot be read (not JSON: "),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "is a Git LFS pointer, "),
    ],
)
def test_a_broken_recipe_is_refused(folder, text, line):
    (folder / "recipe.json").write_bytes(text)
    assert refusal(folder).startswith(line)


def test_a_folder_without_recipe_is_refused(folder):
    (folder / "recipe.json").unlink()
    assert refusal(folder) == "not found; run `dvc repro`, or name an adapter's folder"


def test_a_file_in_place_of_the_folder_is_refused(folder):
    with pytest.raises(UserError, match="name an adapter's folder"):
        Recipe.read(folder / "recipe.json")


def test_a_recipe_from_before_flip_is_read(folder, cfg):
    recipe(cfg, flip=True).write(folder)
    values = json.loads((folder / "recipe.json").read_text())
    assert values.pop("flip") is True
    (folder / "recipe.json").write_text(json.dumps(values))
    assert Recipe.read(folder) == recipe(cfg, flip=False)


def test_a_recipe_from_before_tiles_is_read(folder, cfg):
    values = json.loads((folder / "recipe.json").read_text())
    assert values["image"].pop("tiles") == [1, 1]
    (folder / "recipe.json").write_text(json.dumps(values))
    assert Recipe.read(folder) == recipe(cfg)
    image = cfg.image.model_copy(update={"tiles": (3, 2)})
    recipe(cfg, image=image).write(folder)
    assert Recipe.read(folder).image.tiles == (3, 2)


def test_what_train_writes_is_read(folder, cfg):
    assert Recipe.read(folder) == recipe(cfg)
    before = (folder / "recipe.json").read_bytes()
    Recipe.read(folder).write(folder)
    assert (folder / "recipe.json").read_bytes() == before


def test_a_recipe_of_before_smoothing_is_read(folder, cfg):
    values = json.loads((folder / "recipe.json").read_text())
    assert values.pop("smoothing") is None
    (folder / "recipe.json").write_text(json.dumps(values))
    assert Recipe.read(folder) == recipe(cfg)


def test_a_smoothing_is_kept(folder, cfg):
    smoothed = recipe(cfg, smoothing=Smoothing(spread=1.5, temperature=4.0))
    smoothed.write(folder)
    assert Recipe.read(folder) == smoothed


def test_scenes_are_kept_and_a_recipe_of_before_has_none(folder, cfg):
    scene = Scene(camera=None, mean=FLAT, spread=FLAT, limit=1.5)
    recipe(cfg, scenes=[scene]).write(folder)
    assert Recipe.read(folder) == recipe(cfg, scenes=[scene])
    values = json.loads((folder / "recipe.json").read_text())
    del values["scenes"]
    (folder / "recipe.json").write_text(json.dumps(values))
    assert Recipe.read(folder) == recipe(cfg)
