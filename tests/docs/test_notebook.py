"""The notebook as it is committed; .ci/run runs it top to bottom."""

import ast
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest

from llava_dvc.cli import _parser
from llava_dvc.config import load_config
from tests.conftest import ROOT

PATH = ROOT / "notebooks" / "fine_tune_VLM_LlaVa.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
CELLS = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_outputs_are_stripped():
    nbformat.validate(NOTEBOOK)
    for cell in NOTEBOOK.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None)


def test_cells_are_plain_python():
    """So that a shell's quoting, and Colab's own magic, have no part in it."""
    assert len(CELLS) >= 8
    for source in CELLS:
        ast.parse(source)


def test_commands_are_ours():
    text = "\n".join(cell.source for cell in NOTEBOOK.cells)
    used = set(re.findall(r"llava-dvc ([a-z][a-z-]*)", text))
    known = _parser()._subparsers._group_actions[0].choices
    assert used
    assert used <= set(known)


def test_ci_runs_it():
    assert f"jupyter execute notebooks/{PATH.name}" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    ("card", "settings"),
    [
        (None, ("tiny", "float32")),
        ("exit 9", ("tiny", "float32")),  # the program without a card
        ("echo 6144, 7.5", ("tiny", "float32")),
        ("echo 15360, 7.5", ("llava-1.5-7b", "float16")),  # T4
        ("echo 16376, 8.9", ("llava-1.5-7b", "bfloat16")),
        ("echo 23034, 8.9; echo 15360, 7.5", ("llava-1.5-7b-tuned", "bfloat16")),  # L4, and a T4
        ("echo 32510, 7.0", ("llava-1.5-7b", "float16")),  # V100
    ],
)
def test_the_card_chooses_preset_and_number_format(tmp_path, monkeypatch, card, settings):
    """The whole cell, with a stand-in for nvidia-smi and for commands other than preset."""
    (source,) = [cell for cell in CELLS if "def settings_for" in cell]
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "presets" / "tiny.yaml", "params.yaml")
    if card:
        Path("nvidia-smi").write_text(f"#!/bin/sh\n{card}\n")
        Path("nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin" if card else str(tmp_path))

    def run(command: str) -> None:
        if command.startswith("llava-dvc preset "):
            shutil.copy(ROOT / "presets" / f"{command.split()[-1]}.yaml", "params.yaml")

    scope = {"run": run, "ON_COLAB": True, "Path": Path, "shutil": shutil, "subprocess": subprocess}
    exec(source, scope)
    preset, dtype = settings
    chosen = load_config(Path("params.yaml"))
    expected = load_config(ROOT / "presets" / f"{preset}.yaml")
    assert chosen.backbone.dtype == dtype
    assert chosen.model_copy(update={"backbone": expected.backbone}) == expected
