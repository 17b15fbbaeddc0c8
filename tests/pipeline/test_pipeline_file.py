"""dvc.yaml is tested like code: each stage declares what it reads, all of it and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from llava_dvc.config import Config
from tests.conftest import ROOT

PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
EXEMPT = {"checks", "tracking", "config", "config_errors", "errors", "exit_line", "load_errors"}
EXEMPT |= {"masking", "stage_inputs", "stage_runner", "terminal"}
"""Rooms that only refuse, log or word an error: they decide no result."""
NEVER_TRAINS = {"data", "evaluation", "publishing", "serving", "metrics", "cli"}


def imported(path: Path) -> Iterator[Path]:
    """Files of llava_dvc that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("llava_dvc"):
            continue
        place = ROOT / node.module.replace(".", "/")
        inside = [place / f"{alias.name}.py" for alias in node.names] if place.is_dir() else []
        yield from (file for file in [place.with_suffix(".py"), *inside] if file.is_file())


def room(file: Path) -> str:
    """The folder of llava_dvc that a file is in, or its own name when it is in none."""
    return file.relative_to(ROOT / "llava_dvc").with_suffix("").parts[0]


def rooms_of(stage: str) -> set[str]:
    """Every room whose code can change a stage's result."""
    seen: set[Path] = set()
    waiting = {ROOT / "stages" / f"{stage}.py"}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= {f for f in imported(file) if f not in seen and room(f) not in EXEMPT}
    return {room(file) for file in seen if "llava_dvc" in file.parts}


def declared(stage: str) -> set[str]:
    """Every room that the stage names in dvc.yaml."""
    deps = [Path(dep) for dep in PIPELINE[stage]["deps"] if dep.startswith("llava_dvc/")]
    assert all((ROOT / dep).exists() for dep in deps)
    return {dep.with_suffix("").name for dep in deps}


@pytest.mark.parametrize("stage", PIPELINE)
def test_stage_declares_the_rooms_it_runs(stage):
    assert declared(stage) == rooms_of(stage)
    assert f"stages/{stage}.py" in PIPELINE[stage]["deps"]


def test_nothing_else_retrains():
    assert not declared("train") & (NEVER_TRAINS | EXEMPT)


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
