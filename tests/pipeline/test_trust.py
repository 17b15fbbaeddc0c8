"""What is never done, looked up in the code itself: running what came with a model or a file."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_dvc.config import load_config
from llava_dvc.errors import UserError
from llava_dvc.model.adapter import load_adapter, peft_config, save_adapter
from llava_dvc.training.count_trainer import adapter_weights
from tests.conftest import ROOT
from tests.recipes import recipe

SOURCES = sorted([*(ROOT / "llava_dvc").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
RUNS_CODE = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def calls(path: Path) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def argument(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(k.value) for k in call.keywords if k.arg == name), None)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_nothing_that_came_from_elsewhere_is_run(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not RUNS_CODE & (names | {getattr(node, "module", None)})
    for call in calls(path):
        name = ast.unparse(call.func)
        assert argument(call, "trust_remote_code") in (None, "False"), name
        if name.startswith("Auto") and name.endswith("from_pretrained"):
            assert argument(call, "trust_remote_code") == "False"  # None asks on a terminal
        if name == "torch.load":
            assert argument(call, "weights_only") == "True"
        if name == "np.load":
            assert argument(call, "allow_pickle") in (None, "False")
        assert name not in {"eval", "exec", "yaml.load", "yaml.unsafe_load"}


@pytest.mark.parametrize("path", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda p: p.stem)
def test_presets_pin_what_comes_from_the_hub(path):
    backbone = load_config(path).backbone
    local = backbone.name.startswith("backbones/")
    assert local or re.fullmatch(r"[0-9a-f]{40}", backbone.revision or "")


def test_pages_are_served_to_this_machine_alone():
    text = (ROOT / "Makefile").read_text()
    servers = re.findall(r"(?:tensorboard|mlflow server) (?:.|\\\n)*?(?=&|\n\n)", text)
    assert len(servers) == 2
    assert all("--host 127.0.0.1" in server for server in servers)


def test_an_adapter_in_a_pickle_is_refused(backbone, encoder, cfg, tmp_path):
    from peft import get_peft_model

    model = get_peft_model(backbone, peft_config(cfg.adapter, backbone))
    save_adapter(model, adapter_weights(model), encoder, recipe(cfg, max_count=9), tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter_model.bin")
    load_adapter(shutil.copytree(tmp_path, tmp_path / "both"))
    weights.unlink()
    with pytest.raises(UserError, match=r"adapter_model.safetensors: not found"):
        load_adapter(tmp_path)


def test_nothing_is_reported_to_anyone():
    code = "import llava_dvc; from huggingface_hub import constants as c"
    said = "import os; print(c.HF_HUB_DISABLE_TELEMETRY, os.environ['MLFLOW_DISABLE_TELEMETRY'])"
    kept = {k: v for k, v in os.environ.items() if not k.endswith("DISABLE_TELEMETRY")}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {said}"],
        env=kept,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["True", "true"]
    assert "analytics = false" in (ROOT / ".dvc" / "config").read_text()
