"""The notebook as it is committed; .ci/run runs it top to bottom."""

import ast
import re

import nbformat

from llava_dvc.cli import _parser
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
