"""What the README and the guides say is what the repository has."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from llava_dvc.data.imports.mall import default_messages
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
LAYOUT = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
GUIDES = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "docs", "pretrain", "benchmarks")
    for path in (ROOT / folder).glob("*.md")
)
CODE = r"`((?:llava_dvc|presets|docs|pretrain|tests|stages|benchmarks|notebooks)/[\w./-]*)"


def row(name: str, figures: dict[str, float]) -> str:
    mae, rmse, exact = figures["mae"], figures["rmse"], figures["accuracy"]
    return f"| {name} | {mae:.2f} | {rmse:.2f} | {exact:.1%} |"


def committed(path: str) -> dict:
    """A metrics file as git has it: a local run has other figures until it is committed."""
    command = ["git", "show", f"HEAD:{path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_figures_are_those_of_the_committed_metrics():
    baseline, adapter = (committed(f"metrics/{name}.json") for name in ("baseline", "evaluate"))
    rows = [row(name.replace("_", " "), figures) for name, figures in baseline.items()]
    table = [*rows, row("**adapter**", adapter)]
    assert "\n".join(table) in README


def test_there_are_guides():
    assert {"README.md", "README.ko.md", "CONTRIBUTING.md", "docs/data.md"} <= set(GUIDES)


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_a_guide_names_is_there(guide: str):
    named = re.findall(CODE, (ROOT / guide).read_text(encoding="utf-8"))
    assert named or guide not in {"README.md", "README.ko.md", "CONTRIBUTING.md"}
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_module_the_layout_names_is_there():
    named = set(re.findall(r"\b(\w+\.py)\b", README + LAYOUT))
    assert named
    folders = ("llava_dvc", "stages", "tests")
    known = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert named - known == set()


def test_the_tree_has_every_folder_on_one_screen():
    tree = next(block for block in LAYOUT.split("```") if "llava_dvc/  " in block)
    lines = tree.strip().splitlines()
    assert len(lines) <= 25
    folders = {path.parent.name for path in (ROOT / "llava_dvc").glob("*/__init__.py")}
    assert sorted(re.findall(r"^  (\w+)/ +\w", tree, re.MULTILINE)) == sorted(folders)
    tops = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert [top for top in tops if not (ROOT / top).exists()] == []


def test_each_row_of_what_to_change_names_one_file():
    table = LAYOUT.split("| to change | go to |\n|---|---|\n")[1].split("\n\n")[0]
    cells = [line.strip("| ").split(" | ")[1] for line in table.splitlines()]
    assert len(cells) >= 8
    files = [re.findall(r"`([\w./-]+/[\w.-]+\.\w+)`", cell) for cell in cells]
    assert [len(found) for found in files] == [1] * len(cells)


def test_the_example_conversation_is_the_first_of_a_new_messages_file():
    first, *_ = default_messages().splitlines()
    assert f"`{first}`" in (ROOT / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_readme_stays_short():
    assert len(README.splitlines()) <= 130


def test_the_readme_begins_with_a_picture_the_commands_and_the_table():
    picture, commands, table = (README.index(text) for text in ("](docs/", "```bash", "| train me"))
    assert picture < commands < table < README.index("\n## ")
    [file] = re.findall(r"!\[[^]]+\]\((docs/[\w.]+)\)", README)
    assert (ROOT / file).stat().st_size < 100_000


def test_the_index_is_one_screen_and_has_every_guide():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert len(index.splitlines()) <= 25
    linked = re.findall(r"\]\(([\w./]+)\)", index)
    assert [link for link in linked if not (ROOT / "docs" / link).exists()] == []
    guides = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert guides <= set(linked)


@pytest.mark.parametrize("guide", GUIDES)
def test_no_command_has_a_placeholder_that_a_shell_reads_as_a_file(guide: str):
    text = (ROOT / guide).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert [found for block in blocks for found in re.findall(r"<[a-z][a-z ]*>", block)] == []


def test_every_test_to_copy_is_there():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    assert len(named) >= 8
    gone = [name for file, name in named if f"def {name}(" not in Path(ROOT, file).read_text()]
    assert gone == []


def test_the_sample_is_learnt():
    """The adapter has to be much better than the training mean, and than the backbone alone."""
    baseline = json.loads((ROOT / "metrics" / "baseline.json").read_text())
    mae = json.loads((ROOT / "metrics" / "evaluate.json").read_text())["mae"]
    assert mae <= 0.6 * baseline["train_mean"]["mae"]
    assert mae <= 0.8 * baseline["zero_shot"]["mae"]
