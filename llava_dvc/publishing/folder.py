"""Builds the published folder: adapter, processor, recipe, metrics, plots, model card and manifest.

The same inputs give the same bytes.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.files import WORST, file_digest, files_in, write_json
from llava_dvc.publishing.card import CardFacts, write_card
from llava_dvc.recipe import MANIFEST, Recipe, backbone_digest, manifest_entry, read_manifest

MERGED = "merged"
"""Subfolder of the merged model. It has its own repository, card and manifest."""
EXAMPLES = "examples"
"""Subfolder of held-out frames, if they are drawn."""


def merged_repo(repo: str) -> str:
    """Returns the Hub repository of the merged model that belongs to the adapter in `repo`."""
    return f"{repo}-{MERGED}"


def evaluated_recipe(recipe: Recipe, evaluate: config.Evaluate, metrics: dict[str, Any]) -> Recipe:
    """The adapter's recipe with the decoding, max_count, flip and temperature of its evaluation."""
    update = {
        "decode": evaluate.decode,
        "max_count": evaluate.max_count,
        "flip": evaluate.flip,
        "temperature": metrics["temperature"],
    }
    return recipe.model_copy(update=update)


def add_card_and_manifest(
    folder: Path,
    facts: CardFacts,
    *,
    plots: Path,
    evaluate: config.Evaluate,
    inputs: Mapping[str, str],
) -> None:
    """Adds all that is published beside a model to `folder`, which holds it and its recipe: plots,
    drawn examples, metrics, model card and manifest.

    `inputs` are the digests of `input_digests`.
    """
    shutil.copytree(plots, folder / "plots", ignore=shutil.ignore_patterns(WORST))
    for example in facts.examples:
        (folder / EXAMPLES).mkdir(exist_ok=True)
        (folder / EXAMPLES / example.name).write_bytes(example.content)
    write_json(folder / "metrics" / "evaluate.json", facts.metrics)
    write_json(folder / "metrics" / "baseline.json", facts.baseline)
    write_card(facts, folder)
    manifest = {
        "adapter_sha256": facts.adapter_sha256,
        "inputs_md5": {"data": facts.report["data_md5"], **inputs},
        "evaluate": evaluate.model_dump(),
        "files": manifest_entries(folder),
    }
    write_json(folder / MANIFEST, manifest)


def manifest_entries(folder: Path) -> list[dict[str, Any]]:
    """Returns path, size and sha256 of every published file, except the manifest."""
    return [manifest_entry(folder, name) for name in published_files(folder) if name != MANIFEST]


def verify_manifest(folder: Path) -> dict[str, Any]:
    """Returns the manifest of `folder`.

    Raises UserError when the manifest is missing or not whole, or when a file differs from it.
    """
    manifest = read_manifest(folder)
    if not isinstance(manifest["inputs_md5"].get("data"), str):
        raise UserError(
            f"{folder / MANIFEST}: inputs_md5.data: is not a digest. Build the folder again with "
            "`dvc repro`."
        )
    listed = {entry["path"]: entry for entry in manifest["files"]}
    present = {entry["path"]: entry for entry in manifest_entries(folder)}
    names = sorted(listed.keys() | present.keys())
    changed = [name for name in names if listed.get(name) != present.get(name)]
    if changed:
        name = changed[0]
        state = "new" if name not in listed else "missing" if name not in present else "changed"
        raise UserError(
            f"{folder / name}: is {state} since {MANIFEST} was written ({len(changed)} files "
            "differ). Run `dvc checkout published`, or build it again with `dvc repro`."
        )
    return manifest


def version_tag(folder: Path) -> str:
    """Returns the git tag of a published folder, a digest of its content."""
    return f"v-{file_digest(folder / MANIFEST, 'sha256')[:12]}"


def input_digests(backbone: config.Backbone, **files: Path) -> dict[str, str]:
    """Returns the md5 of each file, as in dvc.lock, and what identifies the backbone.

    For a backbone from the Hub this is its commit, for a local folder the md5 of its weights.
    """
    named = {name: file_digest(path, "md5") for name, path in files.items()}
    return {**named, "backbone": backbone_digest(backbone)}


def published_files(folder: Path) -> dict[str, Path]:
    """Returns the files of `folder` by relative path, without those of the merged model."""
    named = {path.relative_to(folder).as_posix(): path for path in files_in(folder)}
    return {name: path for name, path in named.items() if not name.startswith(f"{MERGED}/")}
