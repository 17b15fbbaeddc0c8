"""Where a result comes from: code, packages, backbone and adapter, as tags of its run. Light: no
torch.
"""

import hashlib
import json
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from llava_dvc import config
from llava_dvc.files import files_in
from llava_dvc.recipe import PACKAGES

DVC_YAML = Path("dvc.yaml")
MAY_DIFFER = {"params.yaml", "dvc.lock"}  # what an experiment changes; its run holds the values


def code() -> dict[str, str]:
    """Git revision and whether the tree is dirty; nothing outside of a git repository."""
    revision = _git("rev-parse", "HEAD")
    if not revision:
        return {}
    return {
        "git_revision": revision[0],
        "mlflow.source.git.commit": revision[0],
        "dirty": str(bool(changed())).lower(),
    }


def changed() -> list[str]:
    """Files that differ from the commit, new ones too, less params.yaml, dvc.lock and declared
    outs: DVC itself deletes a stage's metrics before it runs.
    """
    differ = _git("diff", "--name-only", "--relative", "HEAD")
    new = _git("ls-files", "--others", "--exclude-standard")
    outs = declared_outs()
    return [
        name
        for name in differ + new
        if name not in MAY_DIFFER
        and not any(name == out or name.startswith(f"{out}/") for out in outs)
    ]


def declared_outs() -> set[str]:
    """The paths that the stages of dvc.yaml write, relative to it."""
    if not DVC_YAML.is_file():
        return set()
    text = DVC_YAML.read_text(encoding="utf-8")
    paths = yaml.safe_load(text)["vars"][0]["path"]
    text = re.sub(r"\$\{path\.(\w+)\}", lambda match: str(paths[match[1]]), text)
    stages = yaml.safe_load(text)["stages"].values()
    outs = [
        out
        for stage in stages
        for kind in ("outs", "metrics", "plots")
        for out in stage.get(kind, [])
    ]
    return {next(iter(out)) if isinstance(out, dict) else out for out in outs}


def environment() -> dict[str, str]:
    """Versions of what ran."""
    found = {"version.python": platform.python_version(), "platform": platform.platform()}
    for name in ("llava-dvc", "dvc", "mlflow", "datasets", "accelerate", *PACKAGES):
        try:
            found[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    return found


def backbone_revision(backbone: config.Backbone) -> str:
    """The Hub commit, or DVC's digest of a local folder; "unversioned" when it has neither."""
    tracked = Path(f"{backbone.name}.dvc")
    if backbone.revision or not tracked.is_file():
        return backbone.revision or "unversioned"
    return str(yaml.safe_load(tracked.read_text(encoding="utf-8"))["outs"][0]["md5"])


def dvc_md5(folder: Path) -> str:
    """The digest by which DVC knows `folder`: what `dvc.lock` and `dvc exp show` call its md5."""
    listed = []
    for path in files_in(folder):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, _md5).hexdigest()
        listed.append({"md5": digest, "relpath": path.relative_to(folder).as_posix()})
    listed.sort(key=lambda entry: entry["relpath"])
    return _md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def _md5(content: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(content, usedforsecurity=False)


def _git(*arguments: str) -> list[str]:
    """The lines of git's answer; none when git has none."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotePath=false", *arguments],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.splitlines()
