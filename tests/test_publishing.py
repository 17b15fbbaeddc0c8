import hashlib
import json

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from llava_dvc.evaluation import scores, table, verdict
from llava_dvc.outs import WORST, read_json
from llava_dvc.plots import draw_all
from llava_dvc.publishing import build
from llava_dvc.recipe import WEIGHTS, Recipe, versions
from tests.conftest import frame

BASELINE = {
    "train_mean": {"mae": 8.0, "rmse": 9.0, "accuracy": 0.05},
    "blind_interpolation": {"mae": 5.0, "rmse": 6.0, "accuracy": 0.1},
    "zero_shot": {"mae": 4.0, "rmse": 5.0, "accuracy": 0.1},
}


@pytest.fixture
def frames():
    count = pd.Series([3, 12, 7, 40, 31, 8])
    return pd.DataFrame(
        {
            "frame": [f"seq_{i:06d}.jpg" for i in range(6)],
            "count": count,
            "camera": None,
            "predicted": [3, 13, 5, 43, 31, 8],
            "low": count - 3,
            "high": count + 3,
            "expected": count + 0.25,
            "reply": ["3", "13", "5", "43", "31", "many"],
            "nll": 1.5,
            "pit": [0.5, 0.2, 0.9, 0.1, 0.5, 0.6],
        }
    )


@pytest.fixture
def published(cfg, frames, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / WEIGHTS).write_bytes(b"weights")
    Recipe(
        backbone=cfg.backbone,
        image=cfg.image,
        question="How many?",
        decode="median",
        max_count=80,
        temperature=1.0,
        versions=versions(),
    ).write(adapter)
    predictions = tmp_path / "eval.csv"
    frames.to_csv(predictions, index=False)
    images = [frame(seed) for seed in range(len(frames))]
    draw_all(frames, scores(frames, 1.5), images, tmp_path / "plots")

    def fill(name):
        folder = tmp_path / name
        folder.mkdir()
        build(
            folder,
            adapter,
            {"data_md5": "abc.dir", "splits": {"train": {"frames": 20, "mean": 15.0}}},
            baseline=BASELINE,
            metrics=scores(frames, 1.5),
            predictions=predictions,
            plots=tmp_path / "plots",
            evaluate=cfg.evaluate.model_copy(update={"decode": "mean"}),
            publish=cfg.publish,
        )
        return folder

    return fill


def test_no_picture_of_people_leaves(published):
    pictures = {path.name for path in (published("one") / "plots").iterdir()}
    assert "prediction_vs_truth.png" in pictures
    assert WORST not in pictures


def test_the_same_bytes_every_time(published):
    one, two = published("one"), published("two")
    names = sorted(p.relative_to(one) for p in one.rglob("*") if p.is_file())
    assert {"README.md", "manifest.json", "recipe.json"} <= {str(name) for name in names}
    assert all((one / name).read_bytes() == (two / name).read_bytes() for name in names)


def test_the_manifest_lists_every_other_file(published):
    folder = published("one")
    listed = {f["path"]: f for f in json.loads((folder / "manifest.json").read_text())["files"]}
    for path in folder.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            entry = listed.pop(path.relative_to(folder).as_posix())
            assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
            assert entry["size"] == path.stat().st_size
    assert not listed


def test_it_answers_as_the_evaluation_did(published, cfg):
    recipe = Recipe.read(published("one"))
    assert (recipe.decode, recipe.max_count) == ("mean", cfg.evaluate.max_count)
    assert recipe.temperature == 1.5


def test_the_hub_can_read_the_card(published):
    card = ModelCard.load(published("one") / "README.md")
    assert card.data.library_name == "peft"
    assert card.data.pipeline_tag == "image-text-to-text"
    figures = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert figures["mae"] == 1.0
    assert "| this adapter | 1.00 |" in card.text
    assert "| zero shot | 4.00 |" in card.text


def test_table_and_verdict(frames):
    lines = table(scores(frames, 1.5), BASELINE).splitlines()
    assert lines[-2].split() == ["adapter", "1.00", "1.53", "50.0%"]
    assert lines[-1] == "The adapter is 3.00 people better than zero_shot."
    rivals = {"train_mean": 8.0, "blind_interpolation": 2.0, "zero_shot": 4.0}
    assert verdict(3.0, rivals).startswith("The adapter is 1.00 people better than zero_shot; the")
    assert "leaks" in verdict(3.0, rivals)
    assert verdict(4.5, BASELINE_MAE) == "The adapter is 0.50 people worse than zero_shot."


BASELINE_MAE = {name: row["mae"] for name, row in BASELINE.items()}


def test_a_half_written_file_is_named(tmp_path):
    path = tmp_path / "evaluate.json"
    path.write_text('{"mae": 1')
    with pytest.raises(ValueError, match=r"evaluate\.json:1: not valid JSON; delete it"):
        read_json(path)
