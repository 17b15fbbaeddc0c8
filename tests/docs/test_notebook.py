"""The notebook as it is committed; .ci/run runs it top to bottom."""

import ast
import re

import nbformat
import pytest

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


@pytest.mark.parametrize(
    ("memory", "capability", "settings"),
    [
        (0.0, 0.0, ("tiny", "float32")),  # no card
        (15.36, 7.5, ("llava-1.5-7b", "float16")),  # T4
        (16.3, 8.9, ("llava-1.5-7b", "bfloat16")),
        (23.0, 8.9, ("llava-1.5-7b-tuned", "bfloat16")),  # L4
        (32.5, 7.0, ("llava-1.5-7b", "float16")),  # V100
    ],
)
def test_the_card_chooses_a_preset_that_there_is(memory, capability, settings):
    (source,) = [cell for cell in CELLS if "def settings_for" in cell]
    functions = source.partition("\n\n\nrun(")[0]
    scope = {}
    exec(functions, scope)
    assert scope["settings_for"](memory, capability) == settings
    text = (ROOT / "presets" / f"{settings[0]}.yaml").read_text()
    assert f"dtype: {settings[1]}" in text or "dtype: bfloat16" in text  # what the cell replaces
