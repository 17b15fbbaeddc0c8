import pytest
import yaml

from llava_dvc.checks.bug_report import bug_report
from tests.conftest import ROOT


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A folder with our presets and a home folder of its own; writes params.yaml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "anna"))
    (tmp_path / "presets").symlink_to(ROOT / "presets")

    def write(**changes):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        for name, value in changes.items():
            section, _, key = name.partition("__")
            values[section][key] = value
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))

    return write


def test_it_names_versions_machine_and_changed_settings(workspace):
    workspace(train__epochs=7)
    lines = bug_report().splitlines()
    assert lines[0] == lines[-1] == "```"
    assert lines[-3:-1] == ["settings: preset tiny, except", "  train.epochs: 7"]
    assert "torch 2." in next(line for line in lines if line.startswith("versions: python 3."))
    assert " cores of " in next(line for line in lines if line.startswith("machine: "))


def test_it_holds_no_secret_and_no_home_folder(workspace, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    monkeypatch.setenv("DVC_ROOT", "/home/berta/llava/hf_abcdefghijklmnopqrstuvwxyz")
    workspace(
        backbone__name=f"{tmp_path}/anna/llava",
        publish__repo="anna/secret-shop",
        data__exclude=["anna_at_home.jpg"],
    )
    text = bug_report()
    assert "  backbone.name: ~/llava" in text
    assert "DVC_ROOT: ~/llava/" in text
    for secret in ("anna", "berta", "hf_abc", "shop"):
        assert secret not in text


def test_a_mistake_in_the_settings_is_in_it(workspace):
    workspace(train__epochs="many")
    assert "settings: params.yaml: train.epochs: is 'many'" in bug_report()
