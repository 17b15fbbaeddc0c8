"""A report of a made-up result, in a repository of its own."""

import re
import shutil
import subprocess
import sys
from html import unescape

import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from llava_dvc import cli
from llava_dvc.errors import UserError
from llava_dvc.evaluation.predictions import score_predictions
from llava_dvc.files import WORST, read_json, write_json
from llava_dvc.metrics import baseline_metrics
from llava_dvc.reporting.blocks import ReportSection, Table, Text
from llava_dvc.reporting.logged_run import ResultKeys
from llava_dvc.reporting.report import ReportChoices, make_report, write_report
from llava_dvc.reporting.result_files import result_folder
from llava_dvc.reporting.result_sections import PLOTS
from llava_dvc.tracking.run import open_result, open_run
from tests.conftest import ROOT
from tests.results import predictions

DATA, ADAPTER = "d" * 32 + ".dir", "a" * 32 + ".dir"
RUN = "## This run (differs from run to run)"
REPORT = {
    "data_md5": DATA,
    "frames": 300,
    "rejected": [],
    "left_out": ["a.jpg"],
    "histogram": {"8": 100, "45": 200},
    "splits": {"train": {"frames": 239, "mean": 24.0}, "eval": {"frames": 60, "mean": 25.0}},
}


def write_result(folder, cfg):
    """Writes the files that the stages leave, small."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "presets").symlink_to(ROOT / "presets")
    frames, answers = predictions(1, 2.0), predictions(2, 4.0)
    scores = score_predictions(frames, 1.5)
    for name in ("predictions", "plots", "prepared", "metrics"):
        (folder / name).mkdir()
    columns = ["frame", "count", "predicted", "low", "high", "expected", "reply"]
    frames[columns].to_csv(folder / "predictions" / "eval.csv", index=False)
    theirs = frames[["frame", "count"]].assign(
        train_mean=24.0, zero_shot=40, ridge_features=answers["predicted"]
    )
    theirs.to_csv(folder / "predictions" / "baseline.csv", index=False)
    baseline = {
        name: baseline_metrics(frames["count"], theirs[name])
        for name in ("train_mean", "zero_shot", "ridge_features")
    }
    blind = {"mae": 7.7, "rmse": 8.0, "accuracy": 0.0}
    write_json(folder / "metrics" / "baseline.json", baseline | {"blind_interpolation": blind})
    write_json(folder / "metrics" / "evaluate.json", scores)
    write_json(folder / "prepared" / "report.json", REPORT)
    for name in PLOTS:
        Image.new("RGB", (4, 4)).save(folder / "plots" / name)
    params = {"params.yaml": cfg.model_dump(mode="json", exclude={"publish"})}
    stages = {name: {"params": params} for name in ("prepare", "baseline", "evaluate")}
    stages["train"] = {"params": params, "outs": [{"path": "models/adapter", "md5": ADAPTER}]}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))


@pytest.fixture
def result(cfg, store, tmp_path, monkeypatch):
    """The workspace of a result; returns its settings."""
    write_result(tmp_path, cfg)
    monkeypatch.chdir(tmp_path)
    return cfg


def log(cfg, minutes):
    """Logs the result as the stages do, with `minutes` of training."""
    keys = ResultKeys(cfg, REPORT, ADAPTER)
    with open_run("prepare", cfg, {"seed"}, keys.prepare, {"data_md5": DATA}) as run:
        run.metrics({"usage/prepare/minutes": 0.5, "usage/prepare/peak_memory_gib": 0.4})
    with open_run("train", cfg, {"train"}, "k", {"data_md5": DATA, "adapter": "sha"}) as run:
        for step in (1, 2, 3, 4):
            run.step({"train/loss": 6.0 - step}, step)
        run.step({"val/mae": 2.5}, 4)
    with open_result(cfg, "sha", DATA) as run:
        run.metrics({"usage/train/minutes": minutes, "usage/train/peak_memory_gib": 1.75})
        run.tags({"adapter_md5": ADAPTER, "machine": "2 cores of a test"})


def written(folder):
    return (folder / "report.md").read_text(), (folder / "report.html").read_text()


def words(text):
    """The words of either file, without its markup."""
    text = re.sub(r"(?ms)<head>.*</head>|<[^>]*>|!\[(.*?)\]\([^)]*\)|^\|[-|]+$", r" \1 ", text)
    return re.findall(r"[\w.+%:]+", unescape(text).replace("\\", ""))


def test_both_files_say_the_same_and_need_nothing_else(result, tmp_path):
    log(result, 3.0)
    make_report(None, tmp_path / "report", ReportChoices(price=2.0))
    markdown, page = written(tmp_path / "report")
    text_of_page = re.sub(r"<figcaption>.*?</figcaption>", "", page)
    text_of_page = re.sub(r'<img alt="(.*?)"[^>]*>', r"\1", text_of_page)
    assert words(markdown) == words(text_of_page)
    assert page.count("data:image/png;base64,") == len(PLOTS) + 1
    assert not re.findall(r"https?:|<script|<link|src=\"(?!data:)|url\(|@import", page)
    pictures = re.findall(r"\]\((.*?)\)", markdown)
    assert pictures == ["curves.png", *PLOTS]
    assert all((tmp_path / "report" / name).is_file() for name in pictures)
    for line in (
        "| 4 | 3.500 | 2.50 |",
        "| prepare | 0.5 | 0.40 |",
        "| train | 3.0 | 1.75 |",
        "3.5 minutes in all. At 2 an hour they cost 0.12.",
        "| machine | 2 cores of a test |",
        "| train.min_steps | 100 | 1 |",
        "| eval | 60 | 25.0 |",
    ):
        assert line in markdown, line
    assert "\nAgainst ridge features, the adapter is " in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| ridge features"))
    assert re.fullmatch(
        r"\| ridge features \| [\d.]+ \| [\d.]+ to [\d.]+ \| [\d.]+ \| [\d.]+% \| better by .*\|",
        row,
    )


def test_worst_frames_are_linked_and_not_copied(result, tmp_path):
    (tmp_path / "data" / "frames").mkdir(parents=True)
    (tmp_path / "data.dvc").write_text(f"outs:\n- md5: {DATA}\n")
    make_report(None, tmp_path / "deep" / "report", ReportChoices())
    markdown, page = written(tmp_path / "deep" / "report")
    links = re.findall(r"^- \[(.*): (\d+) people, counted (\d+)\]\((.*)\)$", markdown, re.M)
    errors = [abs(int(count) - int(counted)) for _, count, counted, _ in links]
    assert len(links) == 12
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > errors[-1]
    folder = (tmp_path / "deep" / "report").resolve()
    for name, *_, address in links:
        assert (folder / address).resolve() == tmp_path / "data" / "frames" / name
        assert f'<a href="{address}">{name}: ' in page
    make_report(None, tmp_path / "deep" / "report", ReportChoices(with_frames=False))
    assert "frames/" not in "".join(written(tmp_path / "deep" / "report"))
    (tmp_path / "data.dvc").write_text("outs:\n- md5: of other frames\n")
    make_report(None, tmp_path / "deep" / "report", ReportChoices())
    assert "frames/" not in "".join(written(tmp_path / "deep" / "report"))


def test_equal_results_differ_in_the_last_section_only(result, tmp_path, empty_store):
    texts = []
    for minutes in (3.0, 9.0):
        shutil.copy(empty_store / "mlflow.db", tmp_path)
        log(result, minutes)
        make_report(None, tmp_path / "report", ReportChoices())
        texts.append(written(tmp_path / "report")[0].partition(RUN))
    (first, _, usage), (second, _, other) = texts
    assert first == second
    assert "| train | 3.0 |" in usage
    assert "| train | 9.0 |" in other


def test_worst_frames_can_be_left_out_and_an_unlogged_result_has_a_report(result, tmp_path):
    make_report(None, tmp_path / "report", ReportChoices(with_frames=False))
    assert WORST not in "".join(written(tmp_path / "report"))
    assert not (tmp_path / "report" / WORST).exists()
    assert "MLflow has no run of this result." in written(tmp_path / "report")[0]


def test_counts_in_a_zone_are_said_to_be_so(result, tmp_path):
    data = result.data.model_copy(update={"zone": "tills"})
    lock = yaml.safe_load((tmp_path / "dvc.lock").read_text())
    lock["stages"]["prepare"]["params"]["params.yaml"]["data"] = data.model_dump(mode="json")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock))
    make_report(None, tmp_path / "report", ReportChoices())
    for text in written(tmp_path / "report"):
        assert "300 frames with 8 to 45 people in the zone tills. The split is" in text


@pytest.mark.parametrize(("frames", "is_warned"), [(4, True), (10, False)])
def test_an_error_on_few_frames_has_a_warning(result, tmp_path, frames, is_warned):
    file = tmp_path / "metrics" / "evaluate.json"
    write_json(file, read_json(file) | {"frames": frames})
    make_report(None, tmp_path / "report", ReportChoices())
    for text in written(tmp_path / "report"):
        assert ("4 evaluation frames are too few: an MAE on fewer" in text) == is_warned


def test_a_stage_logs_its_minutes_and_memory(cfg, store, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/here/stages/evaluate.py"])
    with open_result(cfg, "sha", DATA):
        pass
    (run,) = store().search_runs([store().get_experiment_by_name("llava-dvc").experiment_id])
    assert run.data.metrics["usage/evaluate/minutes"] > 0
    assert 0.1 < run.data.metrics["usage/evaluate/peak_memory_gib"] < 100
    assert re.match(r"\d+ cores of .+, \d+ GiB", run.data.tags["machine"])


def test_names_have_no_effect(tmp_path):
    table = Table(("camera",), (("<script>a|b</script> ![x](http://a)",),))
    write_report("a", [ReportSection("b", (table, Text("*c*\n# d")))], tmp_path / "report")
    markdown, page = written(tmp_path / "report")
    assert r"| &lt;script&gt;a\|b&lt;/script&gt; !\[x\](http://a) |" in markdown
    assert r"\*c\* # d" in markdown
    assert "<script>" not in page


@pytest.fixture
def run_report(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["llava-dvc", "report", *arguments])
        cli.main()
        return capsys.readouterr().out

    return call


@pytest.mark.parametrize(
    ("break_it", "line"),
    [
        (lambda root: (root / "dvc.lock").unlink(), r"dvc\.lock: not found; run `dvc repro`"),
        (lambda root: (root / "dvc.lock").write_text("stages: {}"), "has no stage 'prepare'. Run"),
        (lambda root: (root / "dvc.lock").write_text("<<<<"), "dvc.lock: is not whole. Run `make"),
        (lambda root: (root / "plots" / WORST).unlink(), r"worst_frames\.png: not found; run `dvc"),
        (lambda root: (root / "dvc.yaml").unlink(), "dvc.yaml: not found. Run from the repository"),
        (lambda root: (root / "report").mkdir() or (root / "report" / "a").touch(), "is no report"),
    ],
)
def test_a_fault_is_one_line(result, run_report, tmp_path, break_it, line):
    break_it(tmp_path)
    with pytest.raises(SystemExit, match=line) as caught:
        run_report()
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "report" / "report.md").exists()


def test_a_price_is_a_number_of_an_hour(run_report):
    with pytest.raises(SystemExit, match=r"--price: is -1.0. Give the price of an hour, 0 or more"):
        run_report("--price", "-1")


def test_an_experiment_is_read_from_git_and_the_cache(result, tmp_path, monkeypatch):
    """The workspace has other files. What the cache lacks is named."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    (tmp_path / ".gitignore").write_text("/mlflow.db*\n/runs\n/mlartifacts\n/presets\n")
    values = yaml.safe_load((tmp_path / "dvc.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"vars": values["vars"]}))
    (tmp_path / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    subprocess.run(["git", "init", "-q"], check=True)
    with Repo.init(".") as repo:
        repo.add(["plots", "predictions/eval.csv", "predictions/baseline.csv"])
    subprocess.run(["git", "add", "-A"], check=True)
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, "commit", "-q", "-m", "a"], check=True)
    subprocess.run(["git", "tag", "hot"], check=True)
    shutil.rmtree("plots")
    shutil.rmtree("metrics")
    with result_folder("hot") as root:
        assert sorted(path.name for path in (root / "plots").iterdir()) == sorted(PLOTS)
        assert (root / "metrics" / "evaluate.json").is_file()
    shutil.rmtree(".dvc/cache")
    with pytest.raises(UserError, match=r"hot: .* is not in DVC's cache .*dvc exp apply hot"):
        result_folder("hot").__enter__()
    with pytest.raises(UserError, match="cold: no such experiment or commit"):
        result_folder("cold").__enter__()


def test_the_workflow_shows_the_report(run_report, result, tmp_path, monkeypatch):
    """Its commands are run, except `make repro`."""
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "report.yml").read_text())
    steps = {
        step["name"]: step["run"] for step in workflow["jobs"]["report"]["steps"] if "run" in step
    }
    assert steps["Run the pipeline"] == "make repro"
    program, *arguments = steps["Write the report"].split()
    assert (program, arguments[0]) == (".venv/bin/llava-dvc", "report")
    run_report(*arguments[1:])
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    subprocess.run(["bash", "-e", "-c", steps["Show the report in the summary"]], check=True)
    summary = (tmp_path / "summary.md").read_text()
    assert "| ridge features |" in summary
    assert "![" not in summary
