"""What is never done, looked up in the code itself: running what came with a model or a file."""

import ast
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_dvc.commands.ui_servers import host_and_port, running_servers
from llava_dvc.config import load_config
from llava_dvc.errors import UserError
from llava_dvc.model.adapter import load_adapter, peft_config, save_adapter
from llava_dvc.tracking.start_page import MLFLOW, TENSORBOARD
from llava_dvc.training.count_trainer import adapter_weights
from tests.conftest import ROOT
from tests.recipes import recipe

SOURCES = sorted([*(ROOT / "llava_dvc").rglob("*.py"), *(ROOT / "stages").glob("*.py")])
NOTEBOOK = ROOT / "notebooks" / "fine_tune_VLM_LlaVa.ipynb"
REPORTING = (  # prints of MLflow, the Hub client and DVC whether it reports nothing
    "from dvc.analytics import is_enabled; from huggingface_hub import constants; "
    "from mlflow.telemetry.utils import is_telemetry_disabled; "
    "print(is_telemetry_disabled(), constants.HF_HUB_DISABLE_TELEMETRY, not is_enabled())"
)
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
    for address in (MLFLOW, TENSORBOARD):
        assert host_and_port(address)[:2] == ["--host", "127.0.0.1"]
    started = inspect.getsource(running_servers)
    assert started.count("*host_and_port(") == started.count("Popen") == 1


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


@pytest.fixture
def plain_environment():
    """The environment of a user. It has no switch, and no variable of a CI or of pytest: with these
    MLflow reports nothing in any case.
    """
    others = re.compile(
        r".*TELEMETRY|DO_NOT_TRACK|DVC_NO_ANALYTICS|CI|GITHUB_.*|PYTEST_.*|DVC_TEST"
    )
    return {name: v for name, v in os.environ.items() if not others.fullmatch(name)}


def printed(command, environment, folder):
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_libraries_report_if_nobody_switches_it_off(plain_environment, tmp_path):
    """Otherwise the next tests would prove nothing."""
    said = printed([sys.executable, "-c", REPORTING], plain_environment, tmp_path)
    assert said == ["False", "False", "False"]


def test_commands_and_stages_report_nothing(plain_environment, tmp_path):
    """Neither does a process that they start."""
    environment = plain_environment | {"PYTHONPATH": str(ROOT)}
    code = (
        f"import llava_dvc, subprocess, sys; subprocess.run([sys.executable, '-c', {REPORTING!r}])"
    )
    assert printed([sys.executable, "-c", code], environment, tmp_path) == ["True", "True", "True"]


def test_make_reports_nothing(plain_environment, tmp_path):
    """`make ui` starts MLflow's server, which runs no code of ours."""
    recipe_line = f"cd {tmp_path} && {shlex.join([sys.executable, '-c', REPORTING])}"
    command = ["make", "--no-print-directory", "--eval", f"shown:; @{recipe_line}", "shown"]
    assert printed(command, plain_environment, ROOT) == ["True", "True", "True"]


def test_the_notebook_reports_nothing(plain_environment, tmp_path):
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    before = source[: source.index("subprocess.run")]  # it starts no process before this
    switches = [line for line in before.splitlines() if line.startswith("os.environ")]
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {REPORTING!r}])"
    code = "\n".join(["import os", *switches, child])
    assert printed([sys.executable, "-c", code], plain_environment, tmp_path) == [
        "True",
        "True",
        "True",
    ]


def test_dvc_reports_nothing_and_looks_for_no_update():
    settings = (ROOT / ".dvc" / "config").read_text()
    assert "analytics = false" in settings
    assert "check_update = false" in settings
