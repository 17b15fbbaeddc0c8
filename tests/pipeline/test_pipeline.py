"""The whole pipeline as a user runs it: a DVC repository, its own processes, real stores."""

import json
import os
import pickletools
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from zipfile import is_zipfile

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llava_dvc.config import flatten
from llava_dvc.data.imports.mall import default_messages
from llava_dvc.data.labels import write_labels
from llava_dvc.files import files_in
from tests.conftest import ROOT, frame

pytestmark = pytest.mark.slow
CODE = ("llava_dvc", "stages", "presets", "dvc.yaml", ".gitignore", ".dvcignore")
MARK = "marked-and-never-to-be-written"
SECRETS = {
    "HF_TOKEN": f"hf_{MARK}",
    "MLFLOW_TRACKING_PASSWORD": MARK,
    "AWS_SECRET_ACCESS_KEY": MARK,
    "GITHUB_TOKEN": MARK,
}
"""In the environment of every command."""
SAID: list[str] = []
"""All that the commands wrote to standard output and error."""
STEPS = ["baseline:", "train:", "evaluate:", "publish:"]
"""Those that show a bar."""
DOWNSTREAM = {
    "prepare": {"prepare", "baseline", "train", "evaluate", "publish"},
    "baseline": {"baseline", "evaluate", "publish"},
    "train": {"train", "evaluate", "publish"},
    "evaluate": {"evaluate", "publish"},
    "publish": {"publish"},
}


def call(repo: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HF_HUB_OFFLINE": "1",
        **SECRETS,
    }
    env.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        command, cwd=repo, env=env | environment, capture_output=True, text=True, check=False
    )
    SAID.append(done.stdout + done.stderr)
    return done


def repro(repo: Path, *arguments: str, **environment: str) -> str:
    done = call(repo, "dvc", "repro", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ran(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


def write_data(data: Path, frames: int) -> None:
    (data / "frames").mkdir(parents=True)
    counts = {number: 3 + number * 7 % 31 for number in range(1, frames + 1)}
    for number in counts:
        frame(number).save(data / "frames" / f"seq_{number:06d}.jpg", quality=90)
    write_labels(data / "labels.csv", counts)
    (data / "messages.txt").write_text(default_messages(), encoding="utf-8")


@pytest.fixture(scope="session")
def repo(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """A repository with 40 small frames, committed, not yet run."""
    folder = tmp_path_factory.mktemp("repo")
    for name in CODE:
        source = ROOT / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / name)
    shutil.copytree(tiny_folder, folder / "backbones" / "tiny-llava")
    write_data(folder / "data", 40)
    values = yaml.safe_load((ROOT / "presets" / "tiny.yaml").read_text())
    values["train"] |= {"min_steps": 1, "save_every": 2, "augment": []}
    values["adapter"] |= {"r": 4}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    for command in (
        "git init -q",
        "git config user.email test@example.org",
        "git config user.name test",
        f"git remote add origin https://someone:{MARK}@example.org/repo.git",
        "dvc init -q",
        "dvc add -q data backbones/tiny-llava",
        "git add -A",
        "git commit -qm start",
    ):
        done = call(folder, *command.split())
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="session")
def built(repo: Path) -> Path:
    assert ran(repro(repo)) == ["prepare", "baseline", "train", "evaluate", "publish"]
    call(repo, "git", "add", "-A")
    call(repo, "git", "commit", "-qm", "built")
    return repo


def test_each_stage_says_what_it_has_made(built: Path):
    said = next(text for text in SAID if "[5/5] publish" in text)
    lines = [line for line in said.splitlines() if re.match(r"\[./5\]", line)]
    made = [line for line in lines if not re.match(r"\[./5\] \w+: \d+ %", line)]
    assert [line.split()[1] for line in made] == ["prepare:", *STEPS]
    assert (
        made[0] == "[1/5] prepare: 40 frames -> 24 train, 4 val, 8 eval (4 left out between them)"
    )
    assert re.match(r"\[3/5\] train: 3 of 3 steps, validation MAE \d+\.\d\d people after", made[2])
    shown = {line.split()[1] for line in lines if re.match(r"\[./5\] \w+: \d+ %", line)}
    assert shown == set(STEPS)
    assert "{'" not in said  # no dictionary of figures
    assert "INFO" not in said


def test_make_repro_shows_no_line_of_dvc(built: Path):
    done = call(built, "python", "-m", "stages")
    assert (done.returncode, done.stdout) == (0, "Nothing has changed since the last run.\n")
    assert done.stderr == ""


def test_make_repro_shows_dvcs_errors(tmp_path: Path):
    done = call(tmp_path, "python", "-m", "stages", PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert "ERROR: you are not inside of a DVC repository" in done.stderr


def set_param(repo: Path, name: str, value: object) -> None:
    path = repo / "params.yaml"
    values = yaml.safe_load(path.read_text())
    *sections, key = name.split(".")
    place = values
    for section in sections:
        place = place[section]
    place[key] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def runs(repo: Path, query: str = "") -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(f"sqlite:///{repo}/mlflow.db")
    experiment = client.get_experiment_by_name("llava-dvc")
    return list(client.search_runs([experiment.experiment_id], query))


def test_results_are_where_the_contract_says(built: Path):
    metrics = json.loads((built / "metrics" / "evaluate.json").read_text())
    assert metrics["frames"] == 8
    assert {"mae", "rmse", "bias", "accuracy", "f1_macro", "within_3", "bins"} <= metrics.keys()
    baseline = json.loads((built / "metrics" / "baseline.json").read_text())
    for name in ("train_mean", "blind_interpolation", "zero_shot", "ridge_features"):
        assert baseline[name].keys() == {"mae", "rmse", "accuracy"}
    predictions = pd.read_csv(built / "predictions" / "eval.csv")
    columns = ["frame", "count", "predicted", "low", "high", "expected", "reply"]
    assert list(predictions.columns) == columns
    error = np.abs(predictions["predicted"] - predictions["count"]).mean()
    assert metrics["mae"] == pytest.approx(error, abs=1e-6)
    recipe = json.loads((built / "published" / "recipe.json").read_text())
    assert recipe["question"] == "How many people are in this image? Answer with a single number."
    assert recipe["max_count"] == 99
    assert recipe["recomputed_layers"] == 0
    assert recipe["smoothing"].keys() == {"spread", "temperature"}
    assert {"mae_smoothed", "coverage_80_smoothed"} <= metrics.keys()


def test_split_is_in_time_and_counts_every_frame(built: Path):
    report = json.loads((built / "prepared" / "report.json").read_text())
    sizes = [part["frames"] for part in report["splits"].values()]
    assert sum(sizes) + len(report["left_out"]) == report["frames"] == 40
    predictions = pd.read_csv(built / "predictions" / "eval.csv")
    assert predictions["frame"].tolist() == [f"seq_{n:06d}.jpg" for n in range(33, 41)]


def test_one_run_holds_a_result_and_its_training(built: Path):
    (run,) = runs(built, "tags.stage = 'result' and params.`evaluate.decode` = 'median'")
    metrics = json.loads((built / "metrics" / "evaluate.json").read_text())
    assert run.data.metrics["mae"] == metrics["mae"]
    assert run.data.params["train.learning_rate"] == "0.0005"
    data = yaml.safe_load((built / "data.dvc").read_text())["outs"][0]["md5"]
    assert run.data.tags["data_md5"] == data
    inputs = {i.dataset.name: i.dataset.digest for i in run.inputs.dataset_inputs}
    assert inputs == {"data-train": data, "data-eval": data}
    client = mlflow.MlflowClient(f"sqlite:///{built}/mlflow.db")
    loss = [(p.step, p.value) for p in client.get_metric_history(run.info.run_id, "train/loss")]
    board = EventAccumulator(str(built / "runs" / run.info.run_name)).Reload()
    assert [step for step, _ in loss] == [1, 2, 3]
    assert [(e.step, pytest.approx(e.value)) for e in board.Scalars("train/loss")] == loss
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id
    assert not runs(built, "attributes.status != 'FINISHED'")


def test_nothing_runs_twice(built: Path):
    before = len(runs(built))
    assert ran(repro(built)) == []
    assert len(runs(built)) == before


# What runs again after a change in each section: the table that the README promises.
TABLE = [
    ("seed", 18, {"prepare", "train"}),
    ("data.exclude", ["seq_000001.jpg"], {"prepare"}),
    ("split.gap", 3, {"prepare"}),
    ("prompt.phrasings", "first", {"prepare"}),
    ("image.geometry", "squash", {"baseline", "train"}),
    ("backbone.quantization", "none", {"baseline", "train"}),
    ("adapter.r", 8, {"train"}),
    ("train.learning_rate", 0.001, {"train"}),
    ("evaluate.decode", "mean", {"evaluate"}),
    ("publish.repo", "someone/else", {"publish"}),
]


def stale(repo: Path) -> set[str]:
    """Stages that run on the next repro: those that changed, and all after them."""
    status = json.loads(call(repo, "dvc", "status", "--json").stdout)
    return set().union(*(DOWNSTREAM[stage] for stage in status if stage in DOWNSTREAM))


@pytest.mark.parametrize(("name", "value", "changed"), TABLE)
def test_a_param_reruns_what_it_decides(built: Path, name: str, value: object, changed: set[str]):
    params = built / "params.yaml"
    before = params.read_text()
    set_param(built, name, value)
    try:
        assert stale(built) == set().union(*(DOWNSTREAM[stage] for stage in changed))
    finally:
        params.write_text(before)
    assert stale(built) == set()


def test_table_has_every_section(built: Path):
    sections = set(yaml.safe_load((built / "params.yaml").read_text()))
    assert {name.split(".")[0] for name, _, _ in TABLE} == sections


COUNTS = {"baseline", "evaluate", "publish"}  # publish counts too, to compare with evaluate
EDITED = {  # stages that a change of the code in each room changes
    "cli.py": set(),
    "commands": set(),
    "config.py": set(),
    "config_errors.py": set(),
    "errors.py": set(),
    "load_errors.py": set(),
    "stage_inputs.py": set(),
    "stage_runner.py": set(),
    "exit_line.py": set(),
    "masking.py": set(),
    "checks": set(),
    "tracking": set(),
    "reporting": set(),
    "archive": set(),
    "serving": set(),
    "labelling": set(),
    "drift": set(),
    "terminal": set(),
    "data": {"prepare"},
    "metrics.py": {"prepare", *COUNTS},
    "training": {"train"},
    "publishing": {"publish"},
    "evaluation": COUNTS,
    "model": {"train", *COUNTS},
    "pipeline_file.py": {"train"},
    "recipe.py": {"prepare", "train", "evaluate", "publish"},
    "conversation.py": {"prepare", "train", *COUNTS},
    "dataset.py": {"prepare", "train", *COUNTS},
    "files.py": {"prepare", "train", *COUNTS},
}
CHANGED = """
import json, sys
from pathlib import Path
from dvc.repo import Repo
for room in map(Path, sys.argv[1:]):
    file = max(room.rglob("*.py")) if room.is_dir() else room
    before = file.read_text()
    file.write_text(before + "# edited\\n")
    print(json.dumps([room.name, sorted(Repo().status())]))
    file.write_text(before)
"""
"""For each room: edits its last file, asks DVC which stages have changed, undoes the edit."""


def test_editing_a_room_reruns_what_it_decides(built: Path):
    package = built / "llava_dvc"
    rooms = [path for path in package.iterdir() if path.is_dir() or path.suffix == ".py"]
    rooms = [path for path in rooms if path.name not in {"__init__.py", "__pycache__"}]
    done = call(built, sys.executable, "-c", CHANGED, *map(str, rooms))
    assert done.returncode == 0, done.stderr
    found = dict(json.loads(line) for line in done.stdout.splitlines())
    assert {room: set(stages) for room, stages in found.items()} == EDITED
    assert stale(built) == set()


def test_compiled_code_reruns_nothing(built: Path):
    compiled = built / "llava_dvc" / "model" / "__pycache__" / "made_up.cpython-311.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"")
    assert stale(built) == set()
    compiled.unlink()


def test_another_reading_of_one_adapter_is_its_own_result(built: Path):
    params = built / "params.yaml"
    before = params.read_text()
    set_param(built, "evaluate.decode", "mean")
    try:
        assert ran(repro(built)) == ["evaluate", "publish"]
    finally:
        params.write_text(before)
    results = runs(built, "tags.stage = 'result'")
    assert {r.data.params["evaluate.decode"] for r in results} == {"median", "mean"}
    assert len({r.data.tags["adapter"] for r in results}) == 1
    assert ran(repro(built)) == []  # back to the median: DVC's run cache has it


def test_a_relabelled_frame_reruns_all(built: Path):
    labels = built / "data" / "labels.csv"
    before = labels.read_text()
    labels.write_text(before.replace("\n40,", "\n40,1"))
    try:
        assert stale(built) == DOWNSTREAM["prepare"]
    finally:
        labels.write_text(before)


@pytest.mark.sweep
def test_two_clones_agree(built: Path, tmp_path: Path):
    """Another folder, other processes, nothing cached: the same lock file to the byte."""
    clone = tmp_path / "clone"
    assert call(built, "git", "clone", "-q", str(built), str(clone)).returncode == 0
    (clone / "dvc.lock").unlink()
    for name in ("data", "backbones/tiny-llava"):
        shutil.copytree(built / name, clone / name)
    repro(clone)
    assert (clone / "dvc.lock").read_text() == (built / "dvc.lock").read_text()


def remove_data(repo: Path) -> None:
    shutil.rmtree(repo / "data")


def remove_frame(repo: Path) -> None:
    (repo / "data" / "frames" / "seq_000007.jpg").unlink()


def spoil_label(repo: Path) -> None:
    path = repo / "data" / "labels.csv"
    path.write_text(path.read_text().replace("\n5,", "\n5,many"))


def misspell_key(repo: Path) -> None:
    path = repo / "params.yaml"
    path.write_text(path.read_text().replace("learning_rate", "lerning_rate"))


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (remove_data, ["data", "dvc pull"]),
        (remove_frame, ["seq_000007.jpg", "labels.csv"]),
        (spoil_label, ["labels.csv:6", "many"]),
        (misspell_key, ["params.yaml", "train.lerning_rate", "learning_rate?"]),
    ],
)
def test_a_users_mistake_is_one_line(
    repo: Path, tmp_path: Path, fault: Callable[[Path], None], words: list[str]
):
    broken = tmp_path / "broken"
    kept = shutil.ignore_patterns(".*", "prepared", "models", "mlflow.db")
    shutil.copytree(repo, broken, ignore=kept)
    fault(broken)
    done = call(broken, "python", "-m", "stages.prepare", "data", "prepared")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert all(word in line for word in words), line
    assert {path.name for path in broken.glob("prepared/*")} <= {"report.json"}


def test_bad_rows_are_skipped_when_asked_up_to_a_limit(built: Path, tmp_path: Path):
    repo = tmp_path / "skipping"
    shutil.copytree(built, repo, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
    remove_frame(repo)
    spoil_label(repo)
    set_param(repo, "data.on_error", "skip")
    done = call(repo, "dvc", "repro", "prepare")
    assert done.returncode == 0, done.stderr
    assert "warning: 2 rows or files skipped: " in done.stderr
    report = json.loads((repo / "prepared" / "report.json").read_text())
    assert report["rejected_by_kind"] == {"count": 1, "missing": 1}
    assert [row["frame"] for row in report["rejected"]] == ["seq_000005.jpg", "seq_000007.jpg"]
    assert report["frames"] == 38
    (run,) = runs(repo, "tags.stage = 'prepare'")
    assert (run.data.metrics["skipped"], run.data.params["data.on_error"]) == (2, "skip")

    set_param(repo, "data.max_skipped", 1)
    lock = (repo / "dvc.lock").read_text()
    done = call(repo, "dvc", "repro", "prepare")
    assert done.returncode != 0
    assert "data.max_skipped: is 1, but 2 rows or files cannot be used" in done.stderr
    assert (repo / "dvc.lock").read_text() == lock


# --- secrets and trust ------------------------------------------------------------------------


def holding(mark: str, folder: Path) -> list[str]:
    """Files below `folder` in which `mark` stands, less git's own, where the test put it."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    names = [(path.relative_to(folder), path) for path in files]
    return [
        str(n) for n, path in names if n.parts[0] != ".git" and mark.encode() in path.read_bytes()
    ]


def test_no_secret_is_written_anywhere(built: Path):
    """Outs, MLflow's store and artifacts, TensorBoard, DVC's files and caches, all output."""
    for place in ("mlflow.db", "mlartifacts", "runs", "dvc.lock", ".dvc/cache", "published"):
        assert (built / place).exists(), place
    assert MARK in (built / ".git" / "config").read_text()
    assert holding(MARK, built) == []
    assert SAID
    assert not any(MARK in said for said in SAID)
    planted = built / "runs" / "planted.log"
    planted.write_text(f"token {MARK}")
    try:
        assert holding(MARK, built) == ["runs/planted.log"]
    finally:
        planted.unlink()


READERS: dict[str, Callable[[Path], object]] = {
    ".arrow": lambda path: pa.ipc.open_stream(path).read_all(),
    ".csv": pd.read_csv,
    ".jinja": lambda path: path.read_text(encoding="utf-8"),
    ".json": lambda path: json.loads(path.read_text(encoding="utf-8")),
    ".md": lambda path: path.read_text(encoding="utf-8"),
    ".png": lambda path: Image.open(path).load(),
    ".safetensors": load_file,
}
"""What may be in an out: each read in full by what can read nothing else. None runs code."""


def test_no_out_is_a_pickle(built: Path):
    stages = yaml.safe_load((built / "dvc.lock").read_text())["stages"]
    outs = [built / out["path"] for stage in stages.values() for out in stage.get("outs", [])]
    assert {"prepared", "models/adapter", "predictions/eval.csv", "plots", "published"} <= {
        str(out.relative_to(built)) for out in outs
    }
    for path in (file for out in outs for file in files_in(out)):
        assert path.suffix in READERS, path
        READERS[path.suffix](path)
        assert not is_zipfile(path)  # as torch.save writes
        with pytest.raises(ValueError, match=r"."):
            list(pickletools.genops(path.read_bytes()))


# --- several processes ------------------------------------------------------------------------


def test_two_processes_train_the_same_adapter(built: Path, tmp_path: Path):
    """The batch is shared, not doubled: rounding apart, nothing changes, and one process writes."""
    repo = tmp_path / "two"
    shutil.copytree(built, repo, symlinks=True)
    set_param(repo, "train.launcher", "torchrun --nproc_per_node 2")
    assert ran(repro(repo, "train")) == ["train"]
    one, two = (load_file(r / "models/adapter/adapter_model.safetensors") for r in (built, repo))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(two[name], tensor, atol=1e-4), name
    trained = runs(repo, "tags.stage = 'train'") or runs(repo, "tags.`key.train` != ''")
    curves = [
        run for run in trained if run.data.params.get("train.launcher", "").startswith("torch")
    ]
    assert len(curves) == 1
    assert not list((repo / "checkpoints").glob("*/checkpoint-*"))


def wait_for_queue(repo: Path) -> None:
    for _ in range(600):
        status = call(repo, "dvc", "queue", "status").stdout
        if "Queued" not in status and "Running" not in status:
            assert "Failed" not in status, status
            return
        time.sleep(1)
    pytest.fail(f"the queue did not end: {status}")


@pytest.fixture(scope="session")
def swept(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with experiments from a dirty tree, the queue and the run cache."""
    repo = tmp_path_factory.mktemp("swept") / "repo"
    shutil.copytree(built, repo, symlinks=True)
    done = call(repo, "llava-dvc", "runs", "--relocate")
    assert f"paths now lead to {repo}/mlartifacts" in done.stdout, done.stderr
    run = ("dvc", "exp", "run", "-S")
    preset = repo / "presets" / "tiny.yaml"
    before = preset.read_text()
    preset.write_text(before + "# edited\n")
    done = call(repo, *run, "evaluate.decode=mode", "--temp", "--name", "dirty")
    assert done.returncode == 0, done.stderr
    preset.write_text(before)
    for name, batch in (("queued-4", 4), ("queued-2", 2)):
        call(repo, *run, f"evaluate.batch_size={batch}", "--queue", "--name", name)
    call(repo, "dvc", "queue", "start", "-j", "2")
    wait_for_queue(repo)
    done = call(repo, *run, "evaluate.batch_size=4", "--name", "again")
    assert done.returncode == 0, done.stderr
    assert ran(done.stdout) == []
    return repo


def rows(repo: Path) -> dict[str, dict]:
    """What `dvc exp show` tells of each experiment, by its name."""
    shown = json.loads(call(repo, "dvc", "exp", "show", "--json").stdout)
    (commit,) = (row for row in shown if row["rev"] != "workspace")
    found = [rev for group in commit["experiments"] for rev in group["revs"]]
    return {row["name"]: row["data"] for row in found}


@pytest.mark.sweep
def test_every_experiment_ends_in_one_run(swept: Path):
    shown = rows(swept)
    assert shown.keys() == {"dirty", "queued-4", "queued-2", "again"}
    found = {run.info.run_name: run for run in runs(swept, "tags.`key.result` != ''")}
    assert {"dirty", "queued-4", "queued-2"} < found.keys()
    assert "again" not in found  # its result is queued-4's, and none of our code ran
    revision = call(swept, "git", "rev-parse", "HEAD").stdout.strip()
    for name in ("dirty", "queued-4", "queued-2"):
        run, row = found[name], shown[name]
        assert run.info.status == "FINISHED"
        assert run.data.tags["dirty"] == str(name == "dirty").lower()
        assert run.data.tags["git_revision"] == revision
        assert run.data.tags["data_md5"] == row["deps"]["data"]["hash"]
        assert run.data.tags["adapter_md5"] == row["outs"]["models/adapter"]["hash"]
        backbone = yaml.safe_load((swept / "backbones" / "tiny-llava.dvc").read_text())
        assert run.data.tags["backbone_revision"] == backbone["outs"][0]["md5"]
        asked = flatten(row["params"]["params.yaml"]["data"])
        assert run.data.params.keys() == asked.keys()
        for file in ("metrics/evaluate.json", "metrics/baseline.json"):
            for metric, value in flatten(row["metrics"][file]["data"]).items():
                assert run.data.metrics[metric] == value, metric


@pytest.mark.sweep
def test_an_experiments_artifacts_outlive_its_temporary_folder(swept: Path, tmp_path: Path):
    client = mlflow.MlflowClient(f"sqlite:///{swept}/mlflow.db")
    (run,) = runs(swept, "attributes.run_name = 'dirty'")
    path = client.download_artifacts(run.info.run_id, "eval.csv", str(tmp_path))
    assert len(pd.read_csv(path)) == 8
    assert str(swept / "mlartifacts") in run.info.artifact_uri


@pytest.mark.sweep
def test_runs_shows_every_row(swept: Path):
    done = call(swept, "llava-dvc", "runs")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert {"dirty", "queued-4", "queued-2", "again"} < {line.split()[0] for line in lines if line}
    # Such errors have wide intervals. They stand below, where the first column has the run's name
    # if it is another one's.
    below = {line[:16].strip(): after[:16].strip() for line, after in pairwise(lines)}
    assert below["again"] == "queued-4"
    assert below["dirty"] == below["queued-2"] == ""
    assert next(line for line in lines if line.startswith("again ")).endswith("equal")
    assert "differs" not in done.stdout


@pytest.mark.sweep
def test_a_git_tag_brings_the_adapter(swept: Path, tmp_path: Path):
    tag = "llava-people-counter@v1.0.0"
    assert call(swept, "git", "tag", "-a", tag, "-m", "first").returncode == 0
    got = tmp_path / "got"
    get = ("dvc", "artifacts", "get", ".", "llava-people-counter", "--rev", "v1.0.0", "-o")
    done = call(swept, *get, str(got))
    assert done.returncode == 0, done.stderr
    name = "adapter_model.safetensors"
    assert (got / name).read_bytes() == (swept / "models" / "adapter" / name).read_bytes()
