"""`llava-dvc runs` on made-up output of DVC; tests/pipeline/test_pipeline.py runs DVC itself."""

import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from llava_dvc import cli
from llava_dvc.errors import UserError
from llava_dvc.tracking import experiments, registry
from llava_dvc.tracking.provenance import dvc_md5
from llava_dvc.tracking.run import open_result
from tests.results import DATA, log_result, predictions, record_data


@pytest.fixture
def shown(store, cfg, tmp_path, monkeypatch):
    """Output of DVC with a commit and experiments: one with a run, one from the run cache, one
    without a run, one with other metrics, one in the queue and one that failed.
    """
    monkeypatch.setenv("DVC_EXP_NAME", "brave-cat")
    record_data(tmp_path, monkeypatch, DATA)
    frames = predictions(1, 2.0)
    adapter, _ = log_result(cfg, tmp_path, 1, frames)
    error = float((frames["predicted"] - frames["count"]).abs().mean())

    def row(name, md5, mae, **train):
        params = cfg.model_dump(mode="json")
        params["train"] |= train
        return {
            "rev": f"{name}0000000",
            "name": name,
            "data": {
                "params": {"params.yaml": {"data": params}},
                "metrics": {"metrics/evaluate.json": {"data": {"mae": mae}}},
                "deps": {"data": {"hash": DATA}},
                "outs": {"models/adapter": {"hash": md5}},
            },
            "error": None,
        }

    known = dvc_md5(adapter)
    waiting = {"rev": "queued0000", "name": "calm-owl", "data": {"params": {}}, "error": None}
    failed = {"rev": "failed0000", "name": "keen-fox", "data": None, "error": {"msg": "it\nbroke"}}
    revs = [
        row("brave-cat", known, error),
        row("again", known, error),
        row("lost", "f.dir", 1.0, epochs=9),
    ]
    revs += [row("wrong", known, 9.0), waiting, failed]
    groups = [{"name": rev["name"], "revs": [rev]} for rev in revs]
    monkeypatch.setattr(
        experiments, "exp_show", lambda: [row("master", "e.dir", 3.0) | {"experiments": groups}]
    )
    return error


def table(text: str) -> dict[str, list[str]]:
    """The lines of each row of the table, by its name."""
    rows: dict[str, list[str]] = {}
    for line in text.partition("\n\n")[0].splitlines()[2:]:
        name = line.split()[0]
        if name in NAMES and name not in rows:  # else it is the run of the row
            rows[name] = []
        rows[list(rows)[-1]].append(line)
    return rows


LAST = experiments.WIDTH - experiments.COLUMNS["against the champion"]
NAMES = ("master", "brave-cat", "again", "lost", "wrong", "calm-owl", "keen-fox")


def test_the_best_is_first_and_each_row_has_its_run(shown, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["llava-dvc", "runs"])
    cli.main()
    text = capsys.readouterr().out
    rows = table(text)
    best = ["lost", "brave-cat", "again"] if shown > 1 else ["brave-cat", "again", "lost"]
    assert list(rows) == [*best, "master", "wrong", "calm-owl", "keen-fox"]
    cells = {name: " ".join(" ".join(lines).split()) for name, lines in rows.items()}
    assert cells["brave-cat"] == f"brave-cat {shown:.2f} - - - champion"
    assert cells["again"] == f"again {shown:.2f} - - - champion brave-cat"
    assert cells["lost"] == "lost 1.00 - - train.epochs 9 no run of these settings"
    assert cells["wrong"] == "wrong 9.00 - - - champion; its run brave-cat differs in mae"
    assert cells["calm-owl"].endswith("not run")
    assert cells["keen-fox"].endswith("it broke")
    assert max(map(len, text.splitlines())) <= experiments.WIDTH


def test_the_table_fits_with_long_names_and_all_figures(cfg):
    metrics = {"mae": 12.016667, "mae_ci_low": 11.4, "mae_ci_high": 12.634, "mae_smoothed": 11.9}
    settings = cfg.model_dump(mode="json")
    other = {**settings, "image": {**settings["image"], "tiles": [2, 2], "geometry": "squash"}}
    name = "a-very-long-name-of-an-experiment-that-somebody-chose"
    row = experiments.ExperimentRow(name, "abc", "sha", DATA, other, metrics, "")
    run = SimpleNamespace(
        info=SimpleNamespace(run_id="1", run_name="0123456-abcdef"),
        data=SimpleNamespace(metrics={**metrics, "train/seconds": 12345.6}, tags={}),
    )
    again = SimpleNamespace(
        info=SimpleNamespace(run_id="2"),
        data=SimpleNamespace(metrics={}, tags={"training_run": "1"}),
    )
    seconds = experiments.training_seconds([run, again])
    assert seconds == {"1": 12345.6, "2": 12345.6}
    said = {"1": "worse by 12.31 people (not clear)"}
    cells = experiments.table_cells(row, run, replace(row, settings=settings), said, seconds)
    text = experiments.drawn_table([cells])
    assert max(map(len, text.splitlines())) <= experiments.WIDTH
    whole = " ".join(text.split())
    for part in (
        "(11.40-12.63)",
        "11.90",
        "12346",
        "image.tiles [2, 2]",
        "image.geometry",
        '"squash"',
    ):
        assert part in whole


def test_the_verdict_compares_with_the_champion_frame_by_frame(store, cfg, tmp_path):
    """The first adapter is the champion; the second is much worse, the third as good as it."""
    for seed, noise in ((1, 1.0), (2, 8.0), (3, 1.0)):
        log_result(cfg, tmp_path, seed, predictions(seed, noise))
    log_result(cfg, tmp_path, 4, predictions(4, 1.0, frames=50))
    said = list(registry.verdicts(experiments.result_runs()).values())
    assert said[0] == "champion"
    assert re.fullmatch(r"worse by \d+\.\d\d people", said[1])
    assert re.fullmatch(r"(worse|better) by 0\.\d\d people \(not clear\)", said[2])
    assert said[3] == "cannot be compared: other frames"


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
    rows = table(experiments.experiment_table())
    for name in ("brave-cat", "again"):
        assert note in " ".join(filter(None, (line[LAST:] for line in rows[name])))


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
    settings = cfg.model_dump()
    for value, note in ((2.0, ""), (3.0, "its run differs in cameras.a_-")):
        values = metrics | {"cameras.a!.mae": value}
        row = experiments.ExperimentRow("hot", "abc", "sha", DATA, settings, values, "")
        said = experiments.status_note(row, found)
        assert said.startswith(note)
        assert bool(said) == bool(note)


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
    cells = experiments.table_cells(row, experiments.matching_run(row, []), row, {}, {})
    assert cells[:2] == ("1234567890", "-")
    experiments.drawn_table([cells])


def shown_row(cfg, name, mae, data=DATA, frames=60, **split):
    """A row of DVC's output without a run in MLflow."""
    params = cfg.model_dump(mode="json")
    params["split"] |= split
    metrics = {"mae": mae, "frames": frames}
    return {
        "rev": name,
        "data": {
            "params": {"params.yaml": {"data": params}},
            "metrics": {experiments.METRICS: {"data": metrics}},
            "deps": {"data": {"hash": data}},
            "outs": {experiments.ADAPTER: {"hash": f"{name}.dir"}},
        },
    }


@pytest.fixture
def runs_text(store, tmp_path, monkeypatch):
    """The output of `llava-dvc runs` for rows of DVC's output."""

    def text(*rows):
        monkeypatch.setattr(experiments, "exp_show", lambda: rows)
        return experiments.experiment_table()

    record_data(tmp_path, monkeypatch, DATA)
    return text


def first_words(text):
    return [line.split()[0] for line in text.partition("\n\n")[0].splitlines()[2:]]


def test_results_on_other_frames_are_ranked_apart(cfg, runs_text):
    rows = [
        shown_row(cfg, "workspace", 3.0),
        shown_row(cfg, "sample", 1.0, data="other.dir"),
        shown_row(cfg, "better", 2.0),
        shown_row(cfg, "longer", 0.5, eval=0.5),
        shown_row(cfg, "gapped", 2.5, val=0.1),
    ]
    text = runs_text(*rows)
    names = [word for word in first_words(text) if word in [row["rev"] for row in rows] + ["on"]]
    assert names == ["better", "gapped", "workspace", "on", "longer", "sample"]
    assert "\non other frames:\n" in text
    assert "champion was evaluated" not in text
    assert max(map(len, text.splitlines())) <= experiments.WIDTH
    assert "other frames" not in runs_text(rows[0], rows[2], rows[4])


def test_a_champion_on_other_frames_is_said(cfg, runs_text, tmp_path, monkeypatch):
    rows = []
    for seed, data in ((1, "sample.dir"), (2, DATA)):
        adapter, _ = log_result(cfg, tmp_path, seed, predictions(seed, 2.0), data=data)
        row = shown_row(cfg, "sample" if seed == 1 else "workspace", 2.0, data=data)
        row["data"]["outs"] = {experiments.ADAPTER: {"hash": dvc_md5(adapter)}}
        rows.append(row)
    text = runs_text(*rows)
    assert first_words(text)[0] == "workspace"
    words = " ".join(text.split())
    assert "The champion was evaluated on other frames and cannot be compared with these" in words
    assert "It stays until you name another: docs/experiments.md, section The registry." in words
    record_data(tmp_path, monkeypatch, "sample.dir")
    text = runs_text(*rows)
    assert first_words(text)[0] == "sample"
    assert "The champion was evaluated on other frames" not in text


def test_before_the_first_result_on_new_frames_the_table_says_so(cfg, runs_text, monkeypatch):
    record_data(Path.cwd(), monkeypatch, "new.dir")
    text = runs_text(shown_row(cfg, "workspace", 3.0), shown_row(cfg, "main", 3.0))
    assert first_words(text)[:2] == ["on", "workspace"]
    assert text.endswith("\n\nNo result on the frames in data/ yet: run `dvc repro`.\n")


@pytest.mark.parametrize("frames", [4, 9, 10])
def test_an_error_on_few_frames_has_a_warning(cfg, runs_text, frames):
    text = " ".join(runs_text(shown_row(cfg, "workspace", 3.0, frames=frames)).split())
    assert (f"{frames} evaluation frames are too few: an MAE on fewer" in text) == (frames < 10)


def test_the_committed_result_is_not_taken_for_ones_own(cfg, runs_text):
    main, workspace = shown_row(cfg, "main", 2.0), shown_row(cfg, "workspace", 2.0)
    workspace["data"]["outs"] = main["data"]["outs"]
    assert " ".join(runs_text(workspace, main).split()).count("as committed, not run here") == 2
    workspace["data"]["outs"] = {experiments.ADAPTER: {"hash": "mine.dir"}}
    text = " ".join(runs_text(workspace, main).split())
    assert text.count("as committed, not run here") == 1
    assert "no run of these settings" in text
