import json

import pytest

from llava_dvc.tracking.description import (
    NOTE,
    data_in_words,
    describe_all,
    describe_run,
    result_in_words,
)
from llava_dvc.tracking.run import open_run
from llava_dvc.tracking.start_page import page_file, write_page
from tests.results import DATA, log_result, predictions, record_data


def notes(client):
    """The descriptions by the name of a run's stage, or of the run of a result."""
    experiment = client.get_experiment_by_name("llava-dvc").experiment_id
    return [(run, run.data.tags.get(NOTE)) for run in client.search_runs([experiment])]


def test_a_result_says_its_error_its_champion_its_adapter_and_its_data(store, cfg, tmp_path):
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    log_result(cfg, tmp_path, 2, predictions(2, 8.0))
    (_, worse), (run, best) = notes(store())
    adapter = f"Adapter: lora of rank 4 on {cfg.backbone.name.rpartition('/')[2]}, learning rate"
    assert best.startswith(f"MAE {run.data.metrics['mae']:.2f} people.\n\n")
    assert "\n\nIt counts best so far: it is the champion.\n\n" in best
    assert f"{adapter} 0.001, epochs 1, loss ce, seed 17.\n\nData: " in best
    assert DATA[:7] in best
    assert "\n\nAgainst the champion: worse by " in worse


@pytest.mark.parametrize(
    ("metrics", "text"),
    [
        ({"mae": 2.0167}, "MAE 2.02 people."),
        ({"mae": 2.0, "mae_ci_low": 1.42}, "MAE 2.00 people."),
        (
            {"mae": 2.0, "mae_ci_low": 1.42, "mae_ci_high": 2.63, "frames": 60.0},
            "MAE 2.00 people (95 %: 1.42 to 2.63) on 60 held-out frames.",
        ),
        ({"mae": 2.0, "mae_smoothed": 1.97}, "MAE 2.00 people, smoothed over time 1.97."),
    ],
)
def test_a_result_is_said_with_the_figures_that_it_has(metrics, text):
    assert result_in_words(metrics) == text


def test_the_data_are_said_with_their_frames(store, cfg):
    with open_run("train", cfg, {"split"}, "k", {"data_md5": DATA}) as run:
        run.dataset("train", DATA, 206)
        run.dataset("eval", DATA, 60)
    ((run, _),) = notes(store())
    words = f"Data: 206 frames to train on, split temporal, data_md5 {DATA[:7]}."
    assert data_in_words(run) == words


def test_each_other_stage_and_its_end_are_described(store, cfg):
    figures = {"prepare": {"frames": 300, "skipped": 2}, "baseline": {"train_mean.mae": 6.366}}
    for stage, values in figures.items():
        with open_run(stage, cfg, {"split"}, stage, {}) as run:
            run.metrics(values)
    try:
        with open_run("train", cfg, {"adapter", "train"}, "k", {}) as run:
            run.step({"val/mae": 3.0}, 1)
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    said = {run.data.tags["stage"]: text for run, text in notes(store())}
    assert said == {
        "prepare": "Prepared data: 300 frames, 2 skipped, split temporal.",
        "baseline": "Baselines on the held-out frames, MAE: train mean 6.37.",
        "train": "Training: lora of rank 4, learning rate 0.001, epochs 1, loss ce. MAE on "
        "validation frames: 3.00. Not evaluated yet. It was stopped before its end.",
    }


def test_what_somebody_has_written_stays(store, cfg, tmp_path):
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    client = store()
    ((run, text),) = notes(client)
    for written in ("My words", f"{text}\n\nMy words"):
        client.set_tag(run.info.run_id, NOTE, written)
        describe_run(client, run.info.run_id)
        assert notes(client)[0][1] == written


def test_the_start_page_describes_older_runs_and_leads_to_each_page(
    store, cfg, tmp_path, monkeypatch
):
    record_data(tmp_path, monkeypatch, DATA)
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    client = store()
    ((run, text),) = notes(client)
    client.delete_tag(run.info.run_id, NOTE)
    client.set_experiment_tag(run.info.experiment_id, "mlflow.sharedViewState.results", "{}")
    write_page()
    assert notes(client)[0][1] == text
    experiment = client.get_experiment(run.info.experiment_id)
    assert "Description" in experiment.tags["mlflow.sharedViewState.results"]
    page = page_file().read_text()
    assert text in page
    assert page.count("<a href=") == 3
    assert f"/#/experiments/{run.info.experiment_id}/runs?viewStateShareKey=results" in page


def test_results_on_other_frames_are_not_ranked_on_the_page(store, cfg, tmp_path, monkeypatch):
    """The best of all is on other frames. MLflow's table shows it on request."""
    for seed, noise, data in ((1, 0.1, "other.dir"), (2, 8.0, DATA), (3, 2.0, DATA)):
        monkeypatch.setenv("DVC_EXP_NAME", f"run-{seed}")
        log_result(cfg, tmp_path, seed, predictions(seed, noise), data=data)
    record_data(tmp_path, monkeypatch, DATA)
    write_page()
    page = page_file().read_text()
    assert "<h2>The least error: run-3</h2>" in page
    assert "1 result is on other frames and cannot be compared: <a href=" in page
    views = views_of(store())
    assert views[f"results-{DATA[:7]}"] == f"tags.stage = 'result' and tags.data_md5 = '{DATA}'"
    assert views["results"] == "tags.stage = 'result'"
    assert [f"viewStateShareKey={name}&" in page for name in views] == [True, True]
    for name, number in ((f"results-{DATA[:7]}", 2), ("results", 3)):
        assert len(store().search_runs(["1"], views[name])) == number

    record_data(tmp_path, monkeypatch, "new.dir")
    write_page()
    page = page_file().read_text()
    assert "There is no result on the frames in <code>data/</code> yet. Run <code>make" in page
    assert "3 results are on other frames" in page
    assert page.count("viewStateShareKey=results&") == 2


def views_of(client):
    """The searches of the views of MLflow's table, by their names."""
    prefix = "mlflow.sharedViewState."
    tags = client.get_experiment_by_name("llava-dvc").tags
    return {
        name.removeprefix(prefix): json.loads(value)["searchFilter"]
        for name, value in tags.items()
        if name.startswith(prefix)
    }


def test_a_page_without_results_says_what_to_do(store):
    write_page()
    assert "Run <code>make repro</code>" in page_file().read_text()
    describe_all(store(), "1")
