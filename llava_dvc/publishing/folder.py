"""The folder that leaves: adapter, processor, recipe, figures, model card and manifest. The same
bytes every time.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.files import WORST, files_in, read_json, write_json
from llava_dvc.publishing import card
from llava_dvc.recipe import Recipe

MANIFEST = "manifest.json"
MERGED = "merged"
"""A folder inside, published by itself: it has a card and a manifest of its own."""


def merged_repo(repo: str) -> str:
    """Where the merged model goes."""
    return f"{repo}-{MERGED}"


def answers_as(recipe: Recipe, evaluate: config.Evaluate, metrics: dict[str, Any]) -> Recipe:
    """The recipe with what evaluation settled."""
    update = {
        "decode": evaluate.decode,
        "max_count": evaluate.max_count,
        "temperature": metrics["temperature"],
    }
    return recipe.model_copy(update=update)


def complete(
    folder: Path,
    facts: card.Facts,
    *,
    plots: Path,
    evaluate: config.Evaluate,
    inputs: Mapping[str, str],
) -> None:
    """Add figures, card and manifest to a model and its recipe in `folder`.

    `inputs` are the md5 of what it was made from.
    """
    shutil.copytree(plots, folder / "plots", ignore=shutil.ignore_patterns(WORST))
    write_json(folder / "metrics" / "evaluate.json", facts.metrics)
    write_json(folder / "metrics" / "baseline.json", facts.baseline)
    card.write(facts, folder)
    manifest = {
        "adapter_sha256": facts.sha256,
        "inputs_md5": {"data": facts.report["data_md5"], **inputs},
        "evaluate": evaluate.model_dump(),
        "files": listing(folder),
    }
    write_json(folder / MANIFEST, manifest)


def listing(folder: Path) -> list[dict[str, Any]]:
    """Path, size and sha256 of every file in `folder`."""
    return [
        {"path": name, "size": path.stat().st_size, "sha256": _digest(path, "sha256")}
        for name, path in own_files(folder).items()
        if name != MANIFEST
    ]


def check(folder: Path) -> dict[str, Any]:
    """The manifest of `folder`. Raises UserError when there is none, or when a file is not as it
    says.
    """
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    if not {"files", "inputs_md5", "adapter_sha256", "evaluate"} <= manifest.keys():
        raise UserError(f"{folder / MANIFEST}: is none of ours; name a folder that publish built")
    listed = {file["path"]: file for file in manifest["files"]}
    found = {file["path"]: file for file in listing(folder)}
    changed = sorted(n for n in listed.keys() | found.keys() if listed.get(n) != found.get(n))
    if changed:
        first = changed[0]
        how = "new" if first not in listed else "gone" if first not in found else "changed"
        raise UserError(
            f"{folder / first}: is {how} since {MANIFEST} was written ({len(changed)} files in "
            "all); run `dvc checkout published`, or `dvc repro` to build it anew"
        )
    return manifest


def version(folder: Path) -> str:
    """The git tag of what `folder` holds: the same for the same bytes, another for others."""
    return f"v-{_digest(folder / MANIFEST, 'sha256')[:12]}"


def md5_of(backbone: config.Backbone, **files: Path) -> dict[str, str]:
    """The md5 of `files`, as DVC has them, and of a local backbone's weights; the commit of one
    from the Hub.
    """
    weights = sorted(Path(backbone.name).glob("*.safetensors"))
    local = ".".join(_digest(path, "md5") for path in weights)
    named = {name: _digest(path, "md5") for name, path in files.items()}
    return {**named, "backbone": backbone.revision or local}


def own_files(folder: Path) -> dict[str, Path]:
    """All but what is published by itself, by path."""
    named = {path.relative_to(folder).as_posix(): path for path in files_in(folder)}
    return {name: path for name, path in named.items() if not name.startswith(f"{MERGED}/")}


def _digest(path: Path, how: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, how).hexdigest()
