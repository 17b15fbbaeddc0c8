"""The registered model in MLflow: each adapter is a version of it.

The alias `challenger` names the newest version, `champion` the version that counts best. The rule
is in docs/experiments.md.
"""

import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import pandas as pd
from pydantic import ValidationError

from llava_dvc.errors import UserError
from llava_dvc.files import new_folder, state_root
from llava_dvc.masking import masked
from llava_dvc.metrics import mean_interval
from llava_dvc.recipe import Recipe
from llava_dvc.tracking.mlflow_store import connect, store_lock, tracking_uri, unreachable

MODEL = "llava-people-counter"
CHAMPION, CHALLENGER = "champion", "challenger"
Difference = tuple[float, float, float]  # mean and 95 % interval, in people
NOT_COMPARABLE = "cannot be compared: other frames"
"""The verdict on a result whose frames are not those of the champion."""
EVALUATION_FIELDS = ("decode", "max_count", "flip", "temperature")
"""Fields of the recipe that an evaluation sets. Versions made before `flip` have no tag of it."""


def register_candidate(
    client: Any, run_id: str, predictions: Path, result: Mapping[str, Any]
) -> None:
    """Registers the adapter of an evaluation's run, and makes it challenger or champion.

    `result` holds `mae` and EVALUATION_FIELDS. Only the first evaluation of an adapter counts.
    """
    run = client.get_run(run_id)
    tags = {name: run.data.tags[name] for name in ("adapter", "data_md5")}
    tags |= {name: str(result[name]) for name in ("mae", *EVALUATION_FIELDS)}
    with store_lock():
        version = find_version(client, tags["adapter"]) or create_version(client, run, tags)
        if version.run_id != run_id:
            return
        for name, value in tags.items():
            client.set_model_version_tag(MODEL, version.version, name, value)
        champion = version_by_alias(client, CHAMPION)
        if champion is None or champion.version != version.version:
            set_aliases(client, version, predictions)


def set_aliases(client: Any, version: Any, predictions: Path) -> None:
    """Makes `version` the challenger, and the champion if it is better than the present one."""
    client.set_registered_model_alias(MODEL, CHALLENGER, version.version)
    while True:
        champion = current_champion(client)
        is_better, reason = compare_with_champion(client, version, champion, predictions)
        if current_champion(client).version == champion.version:
            break  # otherwise another machine changed the champion: compare again
    best = version if is_better else champion
    client.set_registered_model_alias(MODEL, CHAMPION, best.version)
    client.update_model_version(MODEL, version.version, f"MAE {version.tags['mae']}: {reason}")
    role = CHAMPION if is_better else CHALLENGER
    sys.stdout.write(f"{MODEL} version {version.version} is {role}: {reason}\n")


def current_champion(client: Any) -> Any:
    """The champion, or the oldest version if no version has the alias.

    Machines that register their first adapters at the same time then agree on one version.
    """
    champion = version_by_alias(client, CHAMPION)
    if champion is not None:
        return champion
    versions = client.search_model_versions(f"name = '{MODEL}'")
    oldest = min(int(version.version) for version in versions)
    return client.get_model_version(MODEL, str(oldest))


def compare_with_champion(
    client: Any, version: Any, champion: Any, predictions: Path
) -> tuple[bool, str]:
    """Returns whether `version` becomes the champion, and the reason.

    It does when its MAE is lower and the 95 % interval of the difference lies below 0.
    """
    if champion.version == version.version:
        return True, "the first adapter"
    name = f"champion (version {champion.version})"
    if champion.tags["data_md5"] != version.tags["data_md5"]:
        return False, f"the {name} was evaluated on other data, which cannot be compared"
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(champion.run_id, predictions.name, folder)
        new = pd.read_csv(predictions)
        difference = mae_difference(new, pd.read_csv(path))
    if difference is None:
        return False, f"the {name} was evaluated on other frames, which cannot be compared"
    return difference[2] < 0, in_words(difference, champion.version, len(new))


def in_words(difference: Difference, champion: str, frames: int) -> str:
    """`difference` as of `mae_difference`; `champion` is the number of its version.

    Example: errs by 0.12 people more (95 %: 0.10 less to 0.34 more): not clear on 60 frames;
    version 1 stays champion.
    """
    mean, low, high = (f"{abs(d):.2f}" for d in difference)
    ends = ["more" if d > 0 else "less" for d in difference]
    text = f"errs by {mean} people {ends[0]} (95 %: {low} {ends[1]} to {high} {ends[2]})"
    if difference[1] <= 0 <= difference[2]:
        text += f": not clear on {frames} frames"
    outcome = "is no longer" if difference[2] < 0 else "stays"
    return f"{text}; version {champion} {outcome} champion"


def verdicts(runs: list[Any]) -> dict[str, str]:
    """By the id of each run: how its counts compare with the champion's, frame by frame.

    Empty without a champion. Raises the store's errors.
    """
    client, _ = connect()
    champion = version_by_alias(client, CHAMPION)
    if champion is None:
        return {}
    theirs = logged_counts(client, champion.run_id)
    said = {}
    for run in runs:
        same = run.data.tags.get("data_md5") == champion.tags.get("data_md5")
        ours = logged_counts(client, run.info.run_id) if same else None
        difference = None if ours is None or theirs is None else mae_difference(ours, theirs)
        is_champion = run.info.run_id == champion.run_id
        said[run.info.run_id] = CHAMPION if is_champion else short_verdict(difference)
    return said


def logged_counts(client: Any, run_id: str) -> pd.DataFrame | None:
    """predictions/eval.csv of a run, or None if its store lacks the file."""
    from mlflow.exceptions import MlflowException

    with tempfile.TemporaryDirectory() as folder:
        try:
            return pd.read_csv(client.download_artifacts(run_id, "eval.csv", folder))
        except (MlflowException, OSError):
            return None


def short_verdict(difference: Difference | None) -> str:
    """Example: worse by 0.31 people (not clear)."""
    if difference is None:
        return NOT_COMPARABLE
    mean, low, high = difference
    if not mean:
        return "equal"
    word = "worse" if mean > 0 else "better"
    doubt = "" if low > 0 or high < 0 else " (not clear)"
    return f"{word} by {abs(mean):.2f} people{doubt}"


def mae_difference(new: pd.DataFrame, old: pd.DataFrame) -> Difference | None:
    """MAE of `new` minus MAE of `old` in people, with its 95 % interval (paired, by blocks of
    frames). None when the frames or labels differ.
    """
    columns = ["frame", "count"]
    if not new[columns].equals(old[columns]):
        return None
    errors = [(f["predicted"] - f["count"]).abs().to_numpy(dtype=float) for f in (new, old)]
    differences = errors[0] - errors[1]
    return (float(differences.mean()), *mean_interval(differences))


def find_version(client: Any, adapter: str) -> Any:
    """The version of the adapter with this sha256, or None."""
    query = f"name = '{MODEL}' and tags.adapter = '{adapter}'"
    versions = client.search_model_versions(query)
    return client.get_model_version(MODEL, versions[0].version) if versions else None


def create_version(client: Any, run: Any, tags: Mapping[str, str]) -> Any:
    """Creates a version from the logged model with the same `adapter` tag."""
    from mlflow.exceptions import MlflowException

    query = f"tags.adapter = '{tags['adapter']}'"
    models = client.search_logged_models([run.info.experiment_id], filter_string=query)
    model = next(model for model in models if model.status == "READY")
    with suppress(MlflowException):  # the registered model exists already
        client.create_registered_model(MODEL, description="Counts the people in a camera's frames")
    source, run_id = model.artifact_location, run.info.run_id
    return client.create_model_version(
        MODEL, source, run_id, tags=dict(tags), model_id=model.model_id
    )


def version_by_alias(client: Any, alias: str) -> Any:
    """The version that has `alias`, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(MODEL, alias)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def tag_version(client: Any, adapter: str, tags: Mapping[str, str]) -> None:
    """Adds `tags` to the version of the adapter with this sha256, if it is registered."""
    version = find_version(client, adapter)
    for name, value in tags.items() if version else ():
        client.set_model_version_tag(MODEL, version.version, name, value)


def champion_folder() -> Path:
    """The champion's adapter with the recipe of its evaluation, downloaded once.

    Raises UserError when there is no champion or the tracker cannot be reached.
    """
    version = champion_version()
    for tag in ("adapter", *EVALUATION_FIELDS):
        if tag not in version.tags and tag != "flip":
            raise UserError(
                f"champion: {MODEL} version {version.version} has no tag {tag}, so llava-dvc has "
                "not made it; set the alias to another version, or name a folder"
            )
    name = f"{version.version}-{version.tags['adapter'][:12]}"
    folder = state_root() / ".cache" / CHAMPION / name
    if not folder.exists():
        with new_folder(folder) as partial:
            download_version(version, partial)
    return folder


def champion_version() -> Any:
    """Raises UserError when there is no champion or the tracker cannot be reached."""
    try:
        client, _ = connect()
        version = version_by_alias(client, CHAMPION)
    except Exception as error:  # a tracker can raise anything
        raise unreachable(error) from None
    if version is None:
        raise UserError(
            f"champion: {MODEL} has none in {masked(tracking_uri())}; run `dvc repro`, or name "
            "a folder"
        )
    return version


def download_version(version: Any, folder: Path) -> None:
    """Fills `folder` with the files of a version. Raises UserError when the store lacks them."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as temporary:
            path = mlflow.artifacts.download_artifacts(
                version.source, dst_path=temporary, tracking_uri=tracking_uri()
            )
            copytree(path, folder, dirs_exist_ok=True)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{MODEL} version {version.version}: its files cannot be downloaded "
            f"({masked(' '.join(str(error).split()))[:120]}); if the repository was moved, run "
            "`llava-dvc runs --relocate`"
        ) from None
    evaluated = {name: version.tags[name] for name in EVALUATION_FIELDS if name in version.tags}
    try:
        Recipe.model_validate(Recipe.read(folder).model_dump() | evaluated).write(folder)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{MODEL} version {version.version}: its tag {first['loc'][0]} is "
            f"{first['input']!r}: {first['msg']}; run `dvc repro -f evaluate`, or name a folder"
        ) from None
