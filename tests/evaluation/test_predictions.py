"""predictions/eval.csv."""

import shutil

import pytest
from datasets import DatasetDict

from llava_dvc.checks.loading import load_checked_adapter
from llava_dvc.evaluation.predictions import prediction_table
from llava_dvc.publishing.folder import evaluated_recipe
from llava_dvc.publishing.reload_check import answer_frames
from llava_dvc.serving.counter import Counter


def test_a_spreadsheet_runs_no_name(backbone, encoder, rows, cfg):
    names = ["=1.jpg", "+1.jpg", "-1.jpg", "@1.jpg", "a=1.jpg"]
    named = rows.select(range(5)).map(lambda _, place: {"frame": names[place]}, with_indices=True)
    table = prediction_table(backbone, encoder, named, cfg.evaluate, 1.0)
    assert table["frame"].tolist() == ["./=1.jpg", "./+1.jpg", "./-1.jpg", "./@1.jpg", "a=1.jpg"]


@pytest.fixture
def flipped(cfg):
    return cfg.evaluate.model_copy(update={"flip": True, "decode": "mean"})


def test_flipped_answers_are_the_same_everywhere(adapter_folder, rows, flipped, tmp_path):
    """In the evaluation, in the check of the published folder, and for its users."""
    temperature = 1.4  # makes some means of the frame alone another whole number
    model, encoder, recipe = load_checked_adapter(adapter_folder)
    table = prediction_table(model, encoder, rows, flipped, temperature)
    plain = flipped.model_copy(update={"flip": False})
    alone = prediction_table(model, encoder, rows, plain, temperature)
    predicted, replies = table["predicted"].tolist(), table["reply"].tolist()
    assert predicted != alone["predicted"].tolist()

    folder, prepared = tmp_path / "published", tmp_path / "prepared"
    shutil.copytree(adapter_folder, folder)
    evaluated_recipe(recipe, flipped, {"temperature": temperature}).write(folder)
    DatasetDict({"eval": rows}).save_to_disk(prepared)
    reloaded = answer_frames(folder, prepared, flipped)
    assert [answer["predicted"] for answer in reloaded] == predicted
    assert [answer["reply"] for answer in reloaded] == replies

    found = Counter.from_pretrained(folder).count(list(rows["image"]))
    assert [one.count for one in found] == predicted
    assert [one.reply for one in found] == replies
    assert [one.expected for one in found] == pytest.approx(table["expected"], abs=1e-4)
