"""predictions/eval.csv and metrics/evaluate.json."""

import shutil

import numpy as np
import pytest
from datasets import DatasetDict

from llava_dvc.checks.loading import load_checked_adapter
from llava_dvc.evaluation.plots import error_by_count, timeline
from llava_dvc.evaluation.predictions import (
    INTERNAL,
    SMOOTHED,
    answer_split,
    prediction_table,
    score_predictions,
)
from llava_dvc.model.counting import quantile
from llava_dvc.model.smoothing import smooth
from llava_dvc.publishing.folder import evaluated_recipe
from llava_dvc.publishing.reload_check import answer_frames
from llava_dvc.recipe import Smoothing
from llava_dvc.serving.counter import Counter

SMOOTHING = Smoothing(spread=2.0, temperature=3.0)


@pytest.fixture(scope="module")
def tables(adapter_folder, rows, cfg):
    """Without and with smoothing, of frames 0 to 2 and, after a gap, 4 to 7."""
    model, encoder, _ = load_checked_adapter(adapter_folder)
    kept = rows.select([0, 1, 2, 4, 5, 6, 7])
    mass = answer_split(model, encoder, kept, cfg.evaluate).probabilities
    found = [prediction_table(model, encoder, kept, cfg.evaluate, 1.5, smoothing)
             for smoothing in (None, SMOOTHING)]  # fmt: skip
    return mass, *found


def test_smoothed_counts_stand_beside_those_of_single_frames(tables):
    mass, single, both = tables
    wanted = np.concatenate([smooth(mass[:3], SMOOTHING), smooth(mass[3:], SMOOTHING)])
    for name, share in zip(SMOOTHED, (0.5, 0.1, 0.9), strict=True):
        assert both[name].tolist() == quantile(wanted, share).tolist()
    assert both.drop(columns=SMOOTHED).equals(single)
    assert set(both.columns) - set(INTERNAL) == set(single.columns) - set(INTERNAL)


def test_smoothed_figures_are_added_and_nothing_else_changes(tables):
    _, single, both = tables
    without, scores = score_predictions(single, 1.5), score_predictions(both, 1.5)
    assert scores.keys() - without.keys() == {"mae_smoothed", "coverage_80_smoothed"}
    assert {**scores, **without} == scores
    error = (both["smoothed"] - both["count"]).abs().mean()
    inside = both["count"].between(both["smoothed_low"], both["smoothed_high"]).mean()
    assert scores["mae_smoothed"] == pytest.approx(error, abs=1e-6)
    assert scores["coverage_80_smoothed"] == pytest.approx(inside, abs=1e-6)


def test_the_plot_over_time_has_the_smoothed_line(tables):
    for table, labels in zip(tables[1:], ([], ["smoothed"]), strict=True):
        figure = timeline(table, score_predictions(table, 1.5))
        lines = {line.get_label(): line.get_ydata().tolist() for line in figure.axes[0].lines}
        assert [name for name in lines if name == "smoothed"] == labels
        if labels:
            assert lines["smoothed"] == table["smoothed"].tolist()


def test_lines_differ_without_colours_and_ridge_is_beside_the_adapter(tables):
    """Each line of the plot over time has a dash or a marker of its own."""
    table = tables[2]
    figure = timeline(table, score_predictions(table, 1.5), table["count"] + 2.0)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines) == ["ridge", "counted", "smoothed", "true count"]
    assert lines["ridge"].get_ydata().tolist() == (table["count"] + 2.0).tolist()
    assert len({(line.get_linestyle(), line.get_marker()) for line in lines.values()}) == 4


def test_errors_of_ridge_are_beside_those_of_the_adapter_and_nothing_overlaps(tables):
    table = tables[1]
    figure = error_by_count(table, score_predictions(table, 1.5), table["count"] + 2.0)
    axes = figure.axes[0]
    found = {bars.get_label(): list(bars.datavalues) for bars in axes.containers}
    assert found["MAE of ridge"] == [2.0] * len(score_predictions(table, 1.5)["bins"])
    figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert not legend.overlaps(axes.get_tightbbox())


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
