"""dvc.yaml is tested like code: each stage declares what it reads, all of it and nothing else."""

import ast
from pathlib import Path

import pytest
import yaml

from llava_dvc.config import Config
from tests.conftest import ROOT

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
EXEMPT = {"config", "tracking"}


def imported(path: Path) -> set[str]:
    """Names of the llava_dvc modules that a file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "llava_dvc":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llava_dvc."):
            names.add(node.module.split(".")[1])
    return names


def needed(stage: str) -> set[str]:
    """Every module that can change a stage's result."""
    seen: set[str] = set()
    waiting = imported(ROOT / "stages" / f"{stage}.py")
    while waiting:
        module = waiting.pop()
        if module not in seen | EXEMPT:
            seen.add(module)
            waiting |= imported(ROOT / "llava_dvc" / f"{module}.py")
    return seen


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_declares_the_modules_it_runs(stage):
    files = {f"stages/{stage}.py"} | {f"llava_dvc/{name}.py" for name in needed(stage)}
    assert {dep for dep in PIPELINE[stage]["deps"] if dep.endswith(".py")} == files


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_declares_the_params_it_reads(stage):
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    read = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "cfg"
    }
    assert read & set(Config.model_fields) == set(PIPELINE[stage]["params"])


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_passes_its_declared_paths(stage):
    passed = PIPELINE[stage]["cmd"].split()[4:]
    outs = [
        next(iter(out)) if isinstance(out, dict) else out
        for kind in ("outs", "metrics", "plots")
        for out in PIPELINE[stage].get(kind, [])
    ]
    assert set(passed) <= set(PIPELINE[stage]["deps"]) | set(outs)
    assert set(outs) <= set(passed)


def test_params_are_the_tiny_preset():
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "presets" / "tiny.yaml").read_bytes()
