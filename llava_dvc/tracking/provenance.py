"""Where a result comes from: git revision, package versions, backbone and adapter. No torch."""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from llava_dvc import config
from llava_dvc.files import file_digest, files_in
from llava_dvc.pipeline_file import declared_stages, stage_outs
from llava_dvc.recipe import PACKAGES

EXPERIMENT_FILES = {"params.yaml", "dvc.lock"}  # an experiment changes them; its run logs params


def git_tags() -> dict[str, str]:
    """The git revision and whether the working tree is dirty; empty outside a git repository."""
    revision = _git_lines("rev-parse", "HEAD")
    if not revision:
        return {}
    return {
        "git_revision": revision[0],
        "mlflow.source.git.commit": revision[0],
        "dirty": str(bool(changed_files())).lower(),
    }


def changed_files() -> list[str]:
    """Files that differ from the commit or are new, without EXPERIMENT_FILES and declared outs.

    DVC deletes the metrics of a stage before it runs, so a missing out does not mean a change.
    """
    changed = _git_lines("diff", "--name-only", "--relative", "HEAD")
    new = _git_lines("ls-files", "--others", "--exclude-standard")
    outs = declared_outs()
    return [
        name
        for name in changed + new
        if name not in EXPERIMENT_FILES
        and not any(name == out or name.startswith(f"{out}/") for out in outs)
    ]


def declared_outs() -> set[str]:
    """The outs, metrics and plots of all stages, as paths relative to dvc.yaml."""
    return {out for stage in declared_stages().values() for out in stage_outs(stage)}


def version_tags() -> dict[str, str]:
    """Versions of Python, the platform and the installed packages."""
    tags = {"version.python": platform.python_version(), "platform": platform.platform()}
    for name in ("llava-dvc", "dvc", "mlflow", "datasets", "accelerate", *PACKAGES):
        try:
            tags[f"version.{name}"] = version(name)
        except PackageNotFoundError:
            continue
    return tags


def backbone_revision(backbone: config.Backbone) -> str:
    """The commit on the Hub, or DVC's md5 of a local folder; "unversioned" without either."""
    return backbone.revision or recorded_md5(backbone.name) or "unversioned"


def recorded_md5(folder: str) -> str | None:
    """DVC's md5 of a folder, from the .dvc file beside it; None without that file."""
    dvc_file = Path(f"{folder}.dvc")
    if not dvc_file.is_file():
        return None
    return str(yaml.safe_load(dvc_file.read_text(encoding="utf-8"))["outs"][0]["md5"])


def dvc_md5(folder: Path) -> str:
    """DVC's md5 of `folder`, as in dvc.lock and `dvc exp show`."""
    names = {path.relative_to(folder).as_posix(): path for path in files_in(folder)}
    listing = [{"md5": file_digest(names[name], "md5"), "relpath": name} for name in sorted(names)]
    text = json.dumps(listing, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _git_lines(*arguments: str) -> list[str]:
    """The lines that git prints; empty when git fails or is not installed."""
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
