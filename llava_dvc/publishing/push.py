"""Checks before an upload, the upload, and its receipt."""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.files import state_root, write_json
from llava_dvc.publishing import hub
from llava_dvc.publishing.card import better_baselines
from llava_dvc.publishing.folder import (
    MERGED,
    merged_repo,
    published_files,
    verify_manifest,
    version_tag,
)
from llava_dvc.recipe import WEIGHTS, read_object
from llava_dvc.tracking.mlflow_store import connect, failure_reason, is_reachable
from llava_dvc.tracking.provenance import git_tags
from llava_dvc.tracking.run import result_key
from llava_dvc.tracking.run_lookup import find_trainings

TRACKER_TIMEOUT = 2.0  # seconds


def push_after_stage(folder: Path, publish: config.Publish) -> str:
    """Uploads `folder` if `publish.push` is true and no experiment is running.

    Returns the text to print: notes or the result of the upload.
    """
    if not publish.push:
        refused = "" if publish.force else " `llava-dvc push` refuses to upload it."
        return "".join(f"note: {line}.{refused}\n" for line in baseline_warnings(folder))
    if os.environ.get("DVC_EXP_NAME"):
        return (
            "publish.push: is true, but an experiment uploads nothing. Run `dvc exp apply` on it, "
            "then `llava-dvc push`.\n"
        )
    return push_folder(folder, publish)


def push_folder(folder: Path, publish: config.Publish) -> str:
    """Uploads `folder`, and the merged model in it to its own repository.

    Returns the text to print, one line an upload. Checks everything before the first upload: raises
    UserError when `publish.repo` is a placeholder, when a file differs from its manifest, or when a
    baseline has a smaller MAE and `publish.force` is false.
    """
    publish.require_own_repo()
    parts = [part for part in (folder, folder / MERGED) if part.is_dir()] or [folder]
    manifests = [verify_manifest(part) for part in parts]
    warnings = [line for part in parts for line in baseline_warnings(part)]
    if warnings and not publish.force:
        raise UserError(
            f"{warnings[0]}. Train longer, or set publish.force to true to upload it anyway."
        )
    pushed = zip(parts, manifests, strict=True)
    return "".join(_push_part(part, manifest, publish) for part, manifest in pushed)


def baseline_warnings(folder: Path) -> list[str]:
    """Returns a line about the best baseline if its MAE is smaller than the model's, else none.

    Raises UserError when the folder's metrics have no MAE.
    """
    files = folder / "metrics" / "evaluate.json", folder / "metrics" / "baseline.json"
    metrics, baseline = map(read_object, files)
    try:
        return [
            f"{folder}: has an MAE of {metrics['mae']:.2f} people, but {name} has "
            f"{baseline[name]['mae']:.2f}"
            for name in better_baselines(metrics, baseline)[:1]
        ]
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{files[0]}: has no number mae, or {files[1].name} lacks that of a baseline. Build "
            "the folder again with `dvc repro`."
        ) from None


def write_receipt(uploaded: hub.UploadResult, manifest: dict[str, Any]) -> Path:
    """Writes a receipt below receipts/ and tags the MLflow run of the result.

    Returns the receipt's path.
    """
    tags = {f"hub.{name}": str(value) for name, value in asdict(uploaded).items() if name != "new"}
    receipt = {
        **asdict(uploaded),
        "adapter_sha256": manifest["adapter_sha256"],
        "data_md5": manifest["inputs_md5"]["data"],
        "git_revision": git_tags().get("git_revision"),
        "run_id": _tag_run(manifest, tags),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path = state_root() / "receipts" / uploaded.repo / f"{uploaded.tag}.json"
    write_json(path, receipt)
    return path


def training_note(adapter: str) -> str:
    """On which machine the adapter with this sha256 was trained, in which time, from MLflow.

    Empty if MLflow has no such training or does not answer. It is in no file: two equal trainings
    would differ.
    """
    try:
        if not is_reachable(TRACKER_TIMEOUT):
            return ""
        client, experiment = connect()
        runs = find_trainings(client, experiment, adapter)
        tags, used = (runs[0].data.tags, runs[0].data.metrics) if runs else ({}, {})
    except Exception:  # a tracker can raise anything; `_tag_run` says so
        return ""
    place = f"Trained on {tags['machine.train']}." if "machine.train" in tags else ""
    numbers = {
        "minutes": "{:.1f} minutes",
        "peak_memory_gib": "{:.1f} GiB of memory",
        "peak_gpu_memory_gib": "{:.1f} GiB of GPU memory",
    }
    names = {f"usage/train/{name}": text for name, text in numbers.items()}
    needed = ", ".join(text.format(used[name]) for name, text in names.items() if name in used)
    return " ".join(filter(None, [place, f"Training needed {needed}." if needed else ""]))


def _push_part(folder: Path, manifest: dict[str, Any], publish: config.Publish) -> str:
    """Uploads one folder, writes its receipt, and returns the line to print."""
    repo = publish.repo if (folder / WEIGHTS).is_file() else merged_repo(publish.repo)
    files, tag = published_files(folder), version_tag(folder)
    message = f"{folder.name} {tag}\n{training_note(manifest['adapter_sha256'])}"
    uploaded = hub.upload(files, repo, private=publish.private, tag=tag, message=message)
    path = write_receipt(uploaded, manifest)
    result = "uploaded" if uploaded.new else "nothing new"
    return f"{uploaded.endpoint}/{repo}: {result}, commit {uploaded.commit}, tag {tag}; {path}\n"


def _tag_run(manifest: dict[str, Any], tags: dict[str, str]) -> str | None:
    """Tags the MLflow run and the model version of the result, and returns the run's id.

    Returns None when there is no such run, or when the tracker fails: the upload is done already.
    """
    from llava_dvc.tracking import registry  # imports scikit-learn, which takes seconds

    data = manifest["inputs_md5"]["data"]
    key = result_key(manifest["adapter_sha256"], manifest["evaluate"], data)
    try:
        if not is_reachable(TRACKER_TIMEOUT):
            raise ConnectionError("it does not answer")
        client, experiment = connect()
        runs = client.search_runs([experiment], f"tags.`key.result` = '{key}'")
        for name, value in tags.items() if runs else ():
            client.set_tag(runs[0].info.run_id, name, value)
        registry.tag_version(client, manifest["adapter_sha256"], tags)
        return runs[0].info.run_id if runs else None
    except Exception as error:  # a tracker can raise anything
        sys.stderr.write(f"tracking: no tags on the run ({failure_reason(error)})\n")
        return None
