import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llava_dvc.config import load_config
from llava_dvc.tracking import provenance
from tests.conftest import ROOT


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A clean git repository with our dvc.yaml, a module, metrics and ignored outs."""
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "params.yaml", ".gitignore"):
        Path(name).write_bytes((ROOT / name).read_bytes())
    for name in ("metrics/evaluate.json", "llava_dvc/metrics.py", "dvc.lock", "models/adapter/a"):
        Path(name).parent.mkdir(exist_ok=True, parents=True)
        Path(name).write_text("as committed\n")
    for command in (
        "git init -q",
        "git config user.email test@example.org",
        "git config user.name test",
        "git add -A",
        "git commit -qm start",
    ):
        subprocess.run(command.split(), check=True)


def test_declared_outs_are_those_of_the_pipeline(repo):
    assert provenance.declared_outs() == {
        "prepared", "metrics/baseline.json", "predictions/baseline.csv", "models/adapter",
        "predictions/eval.csv", "plots", "metrics/evaluate.json", "published",
    }  # fmt: skip


def test_files_that_an_experiment_changes_are_not_dirty(repo):
    Path("params.yaml").write_text("seed: 18\n")
    Path("dvc.lock").unlink()
    Path("metrics/evaluate.json").unlink()  # DVC does so before every evaluation
    Path("metrics/baseline.json").write_text("{}")
    Path("models/adapter/b").write_text("an out")
    assert provenance.git_tags()["dirty"] == "false"


@pytest.mark.parametrize(
    "name", ["llava_dvc/metrics.py", "llava_dvc/사람.py", "metrics/other.json"]
)
@pytest.mark.parametrize("staged", [True, False])
def test_any_other_change_is_dirty(repo, name, staged):
    Path(name).write_text("changed\n")
    if staged:
        subprocess.run(["git", "add", "-A"], check=True)
    assert provenance.changed_files() == [name]
    assert provenance.git_tags()["dirty"] == "true"


def test_no_tags_outside_a_git_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_tags() == {}


def test_backbone_revision_is_the_hubs_commit_or_dvcs_md5(monkeypatch):
    monkeypatch.chdir(ROOT)
    backbone = load_config().backbone
    md5 = yaml.safe_load(Path("backbones/tiny-llava.dvc").read_text())["outs"][0]["md5"]
    assert provenance.backbone_revision(backbone) == md5
    hub = backbone.model_copy(update={"name": "llava-hf/llava-1.5-7b-hf", "revision": "abc"})
    assert provenance.backbone_revision(hub) == "abc"
    unversioned = backbone.model_copy(update={"name": "elsewhere"})
    assert provenance.backbone_revision(unversioned) == "unversioned"


def test_dvc_md5_of_a_folder_is_dvcs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "folder"
    for name in ("b.txt", "a/z.txt", "a.txt", "a-b/한.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for command in ("init -q --no-scm", "add -q folder"):
        subprocess.run([sys.executable, "-m", "dvc", *command.split()], check=True)
    md5 = yaml.safe_load(Path("folder.dvc").read_text())["outs"][0]["md5"]
    assert provenance.dvc_md5(folder) == md5
    listing = Path(".dvc/cache/files/md5", md5[:2], md5[2:])
    assert len(json.loads(listing.read_text())) == 4


def test_versions_of_python_and_packages_are_tagged():
    tags = provenance.version_tags()
    assert {"version.python", "version.torch", "version.dvc", "version.mlflow"} <= tags.keys()
