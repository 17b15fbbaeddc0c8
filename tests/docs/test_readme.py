"""What the README says is what the repository does."""

import json
import re
import subprocess

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(name: str, figures: dict[str, float]) -> str:
    mae, rmse, exact = figures["mae"], figures["rmse"], figures["accuracy"]
    return f"| {name} | {mae:.2f} | {rmse:.2f} | {exact:.1%} |"


def committed(path: str) -> dict:
    """Not what lies there: a run of one's own has other figures until it is committed."""
    command = ["git", "show", f"HEAD:{path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_figures_are_those_of_the_committed_metrics():
    baseline, adapter = (committed(f"metrics/{name}.json") for name in ("baseline", "evaluate"))
    rows = [row(name.replace("_", " "), figures) for name, figures in baseline.items()]
    table = [*rows, row("**adapter**", adapter)]
    assert "\n".join(table) in README


def test_every_file_it_names_is_there():
    named = re.findall(r"`((?:llava_dvc|presets|docs|pretrain|tests|stages)/[\w./-]*)`", README)
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_module_of_its_tree_is_there():
    named = set(re.findall(r"\b(\w+\.py)\b", README))
    known = {path.name for path in (ROOT / "llava_dvc").rglob("*.py")}
    known |= {path.name for path in (ROOT / "tests").rglob("*.py")}
    assert named - known == set()


def test_the_sample_is_learnt():
    """What the table has to show: much better than knowing nothing, and than not tuning."""
    baseline = json.loads((ROOT / "metrics" / "baseline.json").read_text())
    mae = json.loads((ROOT / "metrics" / "evaluate.json").read_text())["mae"]
    assert mae <= 0.6 * baseline["train_mean"]["mae"]
    assert mae <= 0.8 * baseline["zero_shot"]["mae"]
