import socket
import threading
import time
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.metadata import parse_session_start_info_plugin_data

from llava_dvc.config import flatten
from llava_dvc.evaluation.plots import plt
from llava_dvc.tracking import background_queue
from llava_dvc.tracking import run as tracking_run
from llava_dvc.tracking.mlflow_run import metric_names
from llava_dvc.tracking.run import TRAINING_SECONDS, open_result, open_run, trainer_callback


def open_train(cfg, key="k1"):
    return open_run("train", cfg, {"train"}, key, {"data_md5": "d"})


def all_runs(client):
    return client.search_runs([client.get_experiment_by_name("llava-dvc").experiment_id])


def test_a_resumed_run_has_no_doubled_point(store, cfg, tmp_path):
    for steps in ((1, 2, 3), (2, 3, 4, 5)):  # killed after step 3, its checkpoint was at step 1
        with open_train(cfg) as run:
            for step in steps:
                run.step({"train/loss": step / 10}, step)
    (found,) = all_runs(store())
    assert found.info.status == "FINISHED"
    history = store().get_metric_history(found.info.run_id, "train/loss")
    assert [(p.step, p.value) for p in history] == [(s, s / 10) for s in (1, 2, 3, 4, 5)]
    board = EventAccumulator(str(tmp_path / "runs" / found.info.run_name)).Reload()
    assert [e.step for e in board.Scalars("train/loss")] == [1, 2, 3, 4, 5]


def test_the_seconds_of_a_training_are_a_figure_of_its_run(store, cfg):
    with open_train(cfg) as run:
        state = SimpleNamespace(is_world_process_zero=True, global_step=4, log_history=[])
        callback = trainer_callback(run)
        callback.on_log(None, state, None, logs={"loss": 2.0, "epoch": 1.0})
        callback.on_log(None, state, None, logs={"train_runtime": 315.25, "epoch": 2.0})
    (found,) = all_runs(store())
    assert found.data.metrics[TRAINING_SECONDS] == 315.25
    assert found.data.metrics["train/loss"] == 2.0


def test_a_run_whose_stage_fails_has_status_failed(store, cfg):
    with pytest.raises(ZeroDivisionError), open_train(cfg):
        _ = 1 / 0
    assert [r.info.status for r in all_runs(store())] == ["FAILED"]


def test_first_evaluation_uses_the_training_run_and_the_second_has_its_own(store, cfg):
    with open_train(cfg) as run:
        run.tags({"adapter": "sha"})
    with open_result(cfg, "sha", "d") as run:
        run.metrics({"mae": 2.0})
    other = cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update={"decode": "mean"})})
    for _ in range(2):  # the same result again is the same run
        with open_result(other, "sha", "d") as run:
            run.metrics({"mae": 3.0})
    results = {r.data.params["evaluate.decode"]: r for r in all_runs(store())}
    assert results.keys() == {"median", "mean"}
    assert [r.data.metrics["mae"] for r in results.values()] == [3.0, 2.0]
    assert "key.train" in results["median"].data.tags
    assert "key.train" not in results["mean"].data.tags
    assert len(store().get_metric_history(results["mean"].info.run_id, "mae")) == 1


CAMERAS = (
    *("a", "a!", "a?", "a_", "a#1", "a b", "a:b", "a.b", "a/b", "a//b", "a/../b", "/a", "..", "."),
    *("a\nb", "a\tb", "정문 2", "é", "e\u0301", "N" * 300, "N" * 299 + "O", "!" * 300, "/" * 300),
)


def test_every_camera_has_its_own_metric_and_is_logged_once(store, cfg, capfd):
    values = {f"cameras.{name}.mae": float(n) for n, name in enumerate(CAMERAS)}
    for _ in range(2):
        with open_train(cfg) as run:
            run.metrics(values)
    assert "tracking:" not in capfd.readouterr().err
    (found,) = all_runs(store())
    logged = {n: v for n, v in found.data.metrics.items() if not n.startswith("system/")}
    assert sorted(logged.values()) == sorted(values.values())
    assert metric_names(values) == logged
    for name in ("a", "a_", "a b", "a:b", "a.b", "a/b", "정문 2"):  # as before
        assert logged[f"cameras.{name}.mae"] == values[f"cameras.{name}.mae"]
    assert all(name.startswith("cameras.") and name.endswith(".mae") for name in logged)
    for name in logged:
        assert len(store().get_metric_history(found.info.run_id, name)) == 1


def test_tensorboard_has_curves_and_a_row_of_its_table(store, cfg, tmp_path):
    """Of the figures without steps it gets the headline of a result. MLflow has all."""
    with open_train(cfg) as run:
        run.step({"train/loss": 1.0}, 1)
        run.metrics({TRAINING_SECONDS: 9.0})
        run.tags({"adapter": "sha"})
    with open_result(cfg, "sha", "d") as run:
        run.metrics({"mae": 2.0, "rmse": 3.0, "cameras.gate.mae": 1.0, "ridge_features.mae": 2.5})
    (folder,) = (tmp_path / "runs").iterdir()
    board = EventAccumulator(str(folder)).Reload()
    assert board.Tags()["scalars"] == ["train/loss", "result/mae", "result/rmse"]
    content = board.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    row = parse_session_start_info_plugin_data(content)
    assert row.group_name == folder.name
    assert row.hparams["train.learning_rate"].number_value == cfg.train.learning_rate
    assert row.hparams["train.augment"].string_value == "[]"
    (found,) = all_runs(store())
    assert {"ridge_features.mae", "cameras.gate.mae", TRAINING_SECONDS} <= found.data.metrics.keys()


def test_pictures_are_in_mlflow_and_tensorboard(store, cfg, tmp_path):
    figure, _ = plt.subplots()
    figure.savefig(tmp_path / "dots.png")
    with open_train(cfg) as run:
        run.picture(tmp_path / "dots.png")
    (found,) = all_runs(store())
    assert [a.path for a in store().list_artifacts(found.info.run_id, "plots")] == [
        "plots/dots.png"
    ]
    board = EventAccumulator(str(tmp_path / "runs" / found.info.run_name)).Reload()
    assert board.Tags()["images"] == ["dots"]


def test_an_adapter_is_stored_once(store, cfg, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w")
    for key in ("k1", "k2"):
        with open_train(cfg, key) as run:
            run.model(folder, "sha")
    client = store()
    experiment = client.get_experiment_by_name("llava-dvc").experiment_id
    (model,) = client.search_logged_models([experiment])
    assert model.tags["adapter"] == "sha"


def test_a_lost_tracker_costs_one_line(store, cfg, monkeypatch, capfd):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{port}")
    with open_train(cfg) as run:
        for step in range(50):
            run.step({"train/loss": 1.0}, step)
    err = capfd.readouterr().err
    assert "secret" not in err
    lines = [line for line in err.splitlines() if line.startswith("tracking:")]
    assert len(lines) == 1
    assert str(port) in lines[0]
    assert "the stage continues without it" in lines[0]


def test_runs_are_named_as_dvc_names_experiments(store, cfg, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-cat")
    with open_train(cfg):
        pass
    assert [r.info.run_name for r in all_runs(store())] == ["brave-cat"]


def test_runs_of_shared_stages_are_not_named_after_an_experiment(store, cfg, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "brave-cat")
    with open_run("prepare", cfg, {"data"}, "abcdef012", {}):
        pass
    assert [r.info.run_name for r in all_runs(store())] == ["prepare-abcdef"]


def test_an_evaluation_renames_the_run_and_keeps_its_tensorboard_folder(
    store, cfg, tmp_path, monkeypatch
):
    """The training comes from DVC's cache: another experiment was killed after it."""
    for name, stage in (("brave-cat", "train"), ("calm-owl", "result")):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        if stage == "train":
            with open_train(cfg) as run:
                run.tags({"adapter": "sha"})
                run.step({"train/loss": 1.0}, 1)
        else:
            with open_result(cfg, "sha", "d") as run:
                run.metrics({"mae": 2.0})
    assert [r.info.run_name for r in all_runs(store())] == ["calm-owl"]
    board = EventAccumulator(str(tmp_path / "runs" / "brave-cat")).Reload()
    assert board.Tags()["scalars"] == ["train/loss", "result/mae"]


def test_a_run_has_provenance_and_system_metrics(store, cfg):
    with open_result(cfg, "sha", "d"):
        pass
    (run,) = all_runs(store())
    expected = {"git_revision", "dirty", "backbone_revision", "version.torch", "version.python"}
    assert expected <= run.data.tags.keys()
    assert run.data.params.keys() == flatten(cfg.model_dump()).keys()
    assert "system/system_memory_usage_percentage" in run.data.metrics


def test_a_second_evaluation_is_tagged_with_its_training_run(store, cfg):
    with open_train(cfg) as run:
        run.tags({"adapter": "sha"})
    for decode in ("median", "mean"):
        evaluate = cfg.evaluate.model_copy(update={"decode": decode})
        with open_result(cfg.model_copy(update={"evaluate": evaluate}), "sha", "d"):
            pass
    second, first = all_runs(store())
    assert second.data.tags["training_run"] == first.info.run_id
    assert "training_run" not in first.data.tags


@pytest.mark.parametrize("has_answered", [True, False])
def test_a_tracker_that_hangs_does_not_delay_the_end(store, cfg, monkeypatch, capfd, has_answered):
    """It answered until the end of the stage, or never."""
    monkeypatch.setattr(background_queue, "is_reachable", lambda timeout: False)
    hung = threading.Event()
    with open_train(cfg) as run:
        if has_answered:
            run.step({"train/loss": 1.0}, 1)
        run.queue.submit(hung.wait)
        run.step({"train/loss": 2.0}, 2)
    assert not hung.is_set()  # the block ended before the tracker did
    hung.set()
    assert (
        ": logging stopped (it does not answer); the stage continues without it"
        in capfd.readouterr().err
    )


def test_an_upload_may_take_longer_than_the_timeout(store, cfg, monkeypatch):
    monkeypatch.setattr(background_queue, "UPLOAD_TIMEOUT", 0.2)
    with open_train(cfg) as run:
        run.queue.submit(lambda: time.sleep(1), is_upload=True)
    assert [r.info.status for r in all_runs(store())] == ["FINISHED"]


def test_the_worker_sleeps_after_the_tracker_is_lost(store, cfg, monkeypatch):
    calls = []

    class AlwaysDue(tracking_run.SystemMetrics):
        def seconds_until_due(self):
            calls.append(1)
            return 0.0

    monkeypatch.setattr(tracking_run, "SystemMetrics", AlwaysDue)
    monkeypatch.setattr(tracking_run, "connect", lambda: 1 / 0)
    with open_train(cfg) as run:
        while not run.queue.is_lost:
            time.sleep(0.01)
        time.sleep(0.1)
        before = len(calls)
        time.sleep(0.2)
        assert len(calls) == before


def test_a_dirty_training_stays_dirty_after_its_evaluation(store, cfg, monkeypatch):
    def set_dirty(dirty):
        tags = {"git_revision": "abc", "dirty": dirty}
        monkeypatch.setattr(tracking_run, "git_tags", lambda: tags)

    for trained, expected in (("true", "true"), ("false", "false")):  # the second training is clean
        set_dirty(trained)
        with open_train(cfg) as run:
            run.tags({"adapter": "sha"})
        set_dirty("false")
        with open_result(cfg, "sha", "d"):
            pass
        assert [run.data.tags["dirty"] for run in all_runs(store())] == [expected]


def train(cfg, key="k1", adapter="sha", loss=1.0):
    with open_train(cfg, key) as run:
        for step in (1, 2):
            run.step({"train/loss": loss}, step)
        run.tags({"adapter": adapter})


def break_off(cfg, error):
    with open_train(cfg) as run:
        run.step({"train/loss": 1.0}, 1)
        raise error


def evaluate(cfg, mae, adapter="sha"):
    with open_result(cfg, adapter, "d") as run:
        run.metrics({"mae": mae})


def curve(folder, tag):
    return [(e.step, e.value) for e in EventAccumulator(str(folder)).Reload().Scalars(tag)]


def folders(tmp_path):
    return sorted(folder.name for folder in (tmp_path / "runs").iterdir())


@pytest.mark.parametrize("has_tracker", [True, False])
def test_the_newest_result_of_a_name_is_seen_in_tensorboard(
    store, cfg, tmp_path, monkeypatch, has_tracker
):
    monkeypatch.setenv("DVC_EXP_NAME", "hot")
    if not has_tracker:
        monkeypatch.setattr(tracking_run, "connect", lambda: 1 / 0)
    for key, value in (("k1", 1.0), ("k2", 2.0), ("k3", 3.0)):
        train(cfg, key, adapter=key, loss=value)
        evaluate(cfg, value, adapter=key)
    assert folders(tmp_path) == ["hot", "hot.1", "hot.2"]
    for name, value in (("hot.1", 1.0), ("hot.2", 2.0), ("hot", 3.0)):
        assert curve(tmp_path / "runs" / name, "result/mae") == [(0, value)]
        assert curve(tmp_path / "runs" / name, "train/loss") == [(1, value), (2, value)]
    if has_tracker:
        tags = {r.data.tags["key.train"]: r.data.tags["tensorboard"] for r in all_runs(store())}
        assert tags == {"k1": "hot.1", "k2": "hot.2", "k3": "hot"}
    train(cfg, "k1", adapter="k1", loss=1.0)  # the first result again
    evaluate(cfg, 1.0, adapter="k1")
    assert folders(tmp_path) == ["hot", "hot.2", "hot.3"]
    assert curve(tmp_path / "runs" / "hot", "result/mae") == [(0, 1.0)]
    assert curve(tmp_path / "runs" / "hot.3", "result/mae") == [(0, 3.0)]


def test_other_figures_of_the_same_result_replace_the_older_ones(store, cfg, tmp_path, monkeypatch):
    """`dvc repro -f -s evaluate` after a change of code, or on another GPU."""
    monkeypatch.setenv("DVC_EXP_NAME", "hot")
    train(cfg)
    for mae in (2.75, 9.5):
        evaluate(cfg, mae)
    assert folders(tmp_path) == ["hot"]
    assert curve(tmp_path / "runs" / "hot", "result/mae") == [(0, 9.5)]
    assert curve(tmp_path / "runs" / "hot", "train/loss") == [(1, 1.0), (2, 1.0)]


def test_a_repeated_training_with_an_equal_adapter_changes_no_result(
    store, cfg, tmp_path, monkeypatch
):
    monkeypatch.setenv("DVC_EXP_NAME", "hot")
    train(cfg)
    evaluate(cfg, 2.0)
    (before,) = all_runs(store())
    with pytest.raises(KeyboardInterrupt):
        break_off(cfg, KeyboardInterrupt())
    train(cfg)
    (after,) = all_runs(store())
    assert after.data.tags == before.data.tags
    assert after.data.tags["stage"] == "result"
    assert (after.info.status, after.info.run_name) == ("FINISHED", "hot")
    assert len(store().get_metric_history(after.info.run_id, "train/loss")) == 2
    assert folders(tmp_path) == ["hot"]
    assert curve(tmp_path / "runs" / "hot", "train/loss") == [(1, 1.0), (2, 1.0)]
    assert curve(tmp_path / "runs" / "hot", "result/mae") == [(0, 2.0)]


def test_a_killed_repeat_leaves_the_result_as_it_is(store, cfg):
    train(cfg)
    evaluate(cfg, 2.0)
    with pytest.raises(RuntimeError):
        break_off(cfg, RuntimeError())
    (found,) = all_runs(store())
    assert (found.info.status, found.data.tags["stage"]) == ("FINISHED", "result")


def test_a_repeated_training_with_another_adapter_is_another_run(store, cfg, tmp_path, monkeypatch):
    """A GPU does not always repeat a training exactly."""
    monkeypatch.setenv("DVC_EXP_NAME", "hot")
    for adapter, value in (("a1", 1.0), ("a2", 2.0)):
        train(cfg, adapter=adapter, loss=value)
        evaluate(cfg, value, adapter=adapter)
    found = {r.data.tags["adapter"]: r for r in all_runs(store())}
    assert {a: r.data.metrics["mae"] for a, r in found.items()} == {"a1": 1.0, "a2": 2.0}
    assert {a: r.data.metrics["train/loss"] for a, r in found.items()} == {"a1": 1.0, "a2": 2.0}
    assert {r.data.tags["stage"] for r in found.values()} == {"result"}
    assert {r.data.params["train.epochs"] for r in found.values()} == {"1"}
    assert {a: r.data.tags["tensorboard"] for a, r in found.items()} == {"a1": "hot.1", "a2": "hot"}
    assert curve(tmp_path / "runs" / "hot", "train/loss") == [(1, 2.0), (2, 2.0)]


def test_a_dirty_repeat_does_not_make_a_clean_result_dirty(store, cfg, monkeypatch):
    for dirty in ("false", "true"):
        tags = {"git_revision": "abc", "dirty": dirty}
        monkeypatch.setattr(tracking_run, "git_tags", lambda tags=tags: tags)
        train(cfg)
    assert [run.data.tags["dirty"] for run in all_runs(store())] == ["false"]


def test_a_call_that_never_ends_is_given_up_although_the_tracker_answers(
    store, cfg, monkeypatch, capfd
):
    monkeypatch.setattr(background_queue, "HANG_TIMEOUT", 0.5)
    hung = threading.Event()
    with open_train(cfg) as run:
        while run.run_id is None:
            time.sleep(0.01)
        run.queue.submit(hung.wait)
    assert not hung.is_set()
    hung.set()
    assert (
        ": logging stopped (it does not answer); the stage continues without it"
        in capfd.readouterr().err
    )
