"""`llava-dvc runs` on made-up output of DVC; tests/pipeline/test_pipeline.py runs DVC itself."""

import sys

import pytest

from llava_dvc import cli
from llava_dvc.errors import UserError
from llava_dvc.tracking import experiments
from llava_dvc.tracking.provenance import dvc_md5
from llava_dvc.tracking.run import open_result
from tests.results import DATA, log_result, predictions


@pytest.fixture
def shown(store, cfg, tmp_path, monkeypatch):
    """Output of DVC with a commit and experiments: one with a run, one from the run cache, one
    without a run, one with other metrics, one in the queue and one that failed.
    """
    monkeypatch.setenv("DVC_EXP_NAME", "brave-cat")
    frames = predictions(1, 2.0)
    adapter, _ = log_result(cfg, tmp_path, 1, frames)
    error = float((frames["predicted"] - frames["count"]).abs().mean())

    def row(name, md5, mae):
        return {
            "rev": f"{name}0000000",
            "name": name,
            "data": {
                "params": {"params.yaml": {"data": cfg.model_dump(mode="json")}},
                "metrics": {"metrics/evaluate.json": {"data": {"mae": mae}}},
                "deps": {"data": {"hash": DATA}},
                "outs": {"models/adapter": {"hash": md5}},
            },
            "error": None,
        }

    known = dvc_md5(adapter)
    waiting = {"rev": "queued0000", "name": "calm-owl", "data": {"params": {}}, "error": None}
    failed = {"rev": "failed0000", "name": "keen-fox", "data": None, "error": {"msg": "it\nbroke"}}
    revs = [row("brave-cat", known, error), row("again", known, error), row("lost", "f.dir", 1.0)]
    revs += [row("wrong", known, 9.0), waiting, failed]
    groups = [{"name": rev["name"], "revs": [rev]} for rev in revs]
    monkeypatch.setattr(
        experiments, "exp_show", lambda: [row("master", "e.dir", 3.0) | {"experiments": groups}]
    )
    return error


def test_each_row_has_its_run(shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llava-dvc", "runs"])
    cli.main()
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["experiment", "revision", "adapter", "MAE"]
    cells = {line.split()[0]: line.split() for line in lines}
    assert list(cells) == ["master", "brave-cat", "again", "lost", "wrong", "calm-owl", "keen-fox"]
    assert cells["brave-cat"][3:6] == [str(shown), "-", "brave-cat"]
    assert cells["again"][5] == "brave-cat"
    assert " ".join(cells["again"][7:]) == "the same result"
    assert " ".join(cells["lost"][7:]) == "no run of these settings"
    assert " ".join(cells["wrong"][7:]) == "differs in mae"
    assert " ".join(cells["calm-owl"][7:]) == "not run"
    assert " ".join(cells["keen-fox"][7:]) == "it broke"


@pytest.mark.parametrize(
    ("tag", "value", "note"),
    [
        ("stage", "train", "its tag stage is train, not result; run `dvc repro -f -s evaluate`"),
        ("adapter", "0123456789", "its tag adapter is 01234567, not the evaluated adapter; run"),
    ],
)
def test_a_run_whose_tags_do_not_fit_is_noticed(shown, store, tag, value, note):
    client = store()
    experiment = client.get_experiment_by_name("llava-dvc").experiment_id
    (run,) = client.search_runs([experiment])
    client.set_tag(run.info.run_id, tag, value)
    lines = {line.split()[0]: line for line in experiments.experiment_table().splitlines()}
    assert note in lines["brave-cat"]
    assert note in lines["again"]


def test_a_server_that_cannot_be_reached_is_a_user_error(shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://someone:secret@127.0.0.1:9")
    with pytest.raises(
        UserError, match=r"http://127\.0\.0\.1:9: cannot be reached .*start"
    ) as raised:
        experiments.experiment_table()
    assert "secret" not in str(raised.value)


def test_a_folder_without_dvc_is_a_user_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"^dvc exp show: .*run from the repository's root"):
        experiments.exp_show()


def test_a_cameras_figure_is_compared_by_its_name_in_mlflow(store, cfg):
    metrics = {"mae": 1.0, "cameras.a!.mae": 2.0}
    with open_result(cfg, "sha", DATA) as run:
        run.metrics(metrics)
    (found,) = experiments.result_runs()
    evaluate = cfg.evaluate.model_dump()
    for value, note in ((2.0, "the same result"), (3.0, "differs in cameras.a_-")):
        values = metrics | {"cameras.a!.mae": value}
        row = experiments.ExperimentRow("hot", "abc", "sha", DATA, evaluate, values, "")
        assert experiments.status_note(row, found).startswith(note)


@pytest.mark.parametrize("odd", [None, [1], "text", 3, {"data": [1]}, {"data": {"evaluate": 2}}])
def test_a_commit_may_hold_any_params_and_metrics(odd):
    shown = {
        "rev": "1234567890",
        "data": {
            "params": {"params.yaml": odd},
            "metrics": {experiments.METRICS: odd},
            "outs": odd,
            "deps": {"data": odd},
        },
        "error": odd,
    }
    row = experiments.parse_experiment(shown)
    cells = experiments.table_cells(row, experiments.matching_run(row, []))
    assert cells[:3] == ("1234567890", "1234567", "-")
