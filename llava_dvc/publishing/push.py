"""What leaves, and what is kept of that: the checks before an upload, the receipt after it."""

import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.files import read_json, state_root, write_json
from llava_dvc.publishing import hub
from llava_dvc.publishing.card import worse_than
from llava_dvc.publishing.folder import MERGED, check, merged_repo, own_files, version
from llava_dvc.recipe import WEIGHTS
from llava_dvc.tracking import mlflow_run
from llava_dvc.tracking.mlflow_store import answers, connect, masked
from llava_dvc.tracking.provenance import code

ANSWER = 2.0  # seconds for the tracker to say that it is there


def from_stage(folder: Path, publish: config.Publish) -> str:
    """Release `folder` if params.yaml asks for it; returns what to tell."""
    if not publish.push:
        refused = "" if publish.force else "; `llava-dvc push` refuses it"
        return "".join(f"note: {line}{refused}\n" for line in objections(folder))
    if os.environ.get("DVC_EXP_NAME"):
        return (
            "publish.push: is true, but nothing is uploaded from an experiment; `dvc exp apply` "
            "it, then `llava-dvc push`\n"
        )
    return release(folder, publish)


def release(folder: Path, publish: config.Publish) -> str:
    """Upload `folder`, and the merged model in it to a repository of its own; returns what to tell.

    Raises UserError when a file is not as the manifest says, or a baseline counts better and
    `publish.force` is false; nothing has left then.
    """
    parts = [part for part in (folder, folder / MERGED) if part.is_dir()] or [folder]
    manifests = [check(part) for part in parts]
    against = [line for part in parts for line in objections(part)]
    if against and not publish.force:
        raise UserError(
            f"{against[0]}; train on, or set publish.force to true to upload it all the same"
        )
    told = []
    for part, manifest in zip(parts, manifests, strict=True):
        repo = publish.repo if (part / WEIGHTS).is_file() else merged_repo(publish.repo)
        tag = version(part)
        pushed = hub.upload(part, own_files(part), repo, private=publish.private, tag=tag)
        path = keep_receipt(pushed, manifest)
        did = "uploaded" if pushed.new else "nothing new"
        told.append(f"{pushed.endpoint}/{repo}: {did}, commit {pushed.commit}, tag {tag}; {path}\n")
    return "".join(told)


def objections(folder: Path) -> list[str]:
    """The baseline that counts best, if it counts better than what is in `folder`."""
    figures, baseline = (
        read_json(folder / "metrics" / f"{name}.json") for name in ("evaluate", "baseline")
    )
    return [
        f"{folder}: errs by {figures['mae']:.2f} people, {name} by {baseline[name]['mae']:.2f}"
        for name in worse_than(figures, baseline)[:1]
    ]


def keep_receipt(pushed: hub.Pushed, manifest: dict[str, Any]) -> Path:
    """In receipts/ under the repository's root, and as tags of the result's MLflow run."""
    tags = {f"hub.{name}": str(value) for name, value in asdict(pushed).items() if name != "new"}
    receipt = {
        **asdict(pushed),
        "adapter_sha256": manifest["adapter_sha256"],
        "data_md5": manifest["inputs_md5"]["data"],
        "git_revision": code().get("git_revision"),
        "run_id": _tag_result(manifest, tags),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    path = state_root() / "receipts" / pushed.repo / f"{pushed.tag}.json"
    write_json(path, receipt)
    return path


def _tag_result(manifest: dict[str, Any], tags: dict[str, str]) -> str | None:
    """Tag the run whose result this is, and return its id; the upload stands without a tracker."""
    from llava_dvc.tracking import registry  # late: with scikit-learn, which no publishing needs

    data = manifest["inputs_md5"]["data"]
    key = mlflow_run.digest(manifest["adapter_sha256"], manifest["evaluate"], data)
    try:
        if not answers(ANSWER):
            raise ConnectionError("it does not answer")
        client, experiment = connect()
        found = client.search_runs([experiment], f"tags.`key.result` = '{key}'")
        for name, value in tags.items() if found else ():
            client.set_tag(found[0].info.run_id, name, value)
        registry.tag_version(client, manifest["adapter_sha256"], tags)
        return found[0].info.run_id if found else None
    except Exception as error:  # whatever a tracker raises
        reason = masked(" ".join(str(error).split()))[:200]
        sys.stderr.write(f"tracking: no tags on the run ({reason})\n")
        return None
