"""The registered model: every adapter is a version of it, the newest the `challenger`, the one that
was shown to count best the `champion`. docs/experiments.md has the rule.
"""

import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from shutil import copytree
from typing import Any

import pandas as pd

from llava_dvc.errors import UserError
from llava_dvc.files import new_folder, state_root
from llava_dvc.metrics import mean_interval
from llava_dvc.recipe import Recipe
from llava_dvc.tracking.mlflow_store import connect, lock, lost, masked, tracking_uri

MODEL = "llava-people-counter"
CHAMPION, CHALLENGER = "champion", "challenger"
READING = ("decode", "max_count", "temperature")  # what an evaluation adds to an adapter's recipe


def offer(client: Any, run_id: str, predictions: Path, result: Mapping[str, Any]) -> None:
    """Register the adapter of a result's run, once; a new one is the challenger, and takes the
    champion's place when it counts better by more than chance.

    `result` holds `mae` and what READING names. An adapter is judged by its first evaluation.
    """
    run = client.get_run(run_id)
    tags = {name: run.data.tags[name] for name in ("adapter", "data_md5")}
    tags |= {name: str(result[name]) for name in ("mae", *READING)}
    with lock():
        version = find(client, tags["adapter"]) or create(client, run, tags)
        if version.run_id != run_id:
            return
        for name, value in tags.items():
            client.set_model_version_tag(MODEL, version.version, name, value)
        champion = by_alias(client, CHAMPION)
        if champion is None or champion.version != version.version:
            settle(client, version, predictions)


def settle(client: Any, version: Any, predictions: Path) -> None:
    """Give `version` the aliases that are its own, and write down why."""
    client.set_registered_model_alias(MODEL, CHALLENGER, version.version)
    while True:
        champion = reigning(client)
        wins, why = challenge(client, version, champion, predictions)
        if reigning(client).version == champion.version:
            break  # else another machine's adapter has just taken the place
    best = version if wins else champion
    client.set_registered_model_alias(MODEL, CHAMPION, best.version)
    client.update_model_version(MODEL, version.version, f"MAE {version.tags['mae']}: {why}")
    role = CHAMPION if wins else CHALLENGER
    sys.stdout.write(f"{MODEL} version {version.version} is {role}: {why}\n")


def reigning(client: Any) -> Any:
    """The champion; before there is one, the oldest version: of several that are registered at once
    on an empty store, all agree on it.
    """
    named = by_alias(client, CHAMPION)
    if named is not None:
        return named
    numbers = [int(found.version) for found in client.search_model_versions(f"name = '{MODEL}'")]
    return client.get_model_version(MODEL, str(min(numbers)))


def challenge(client: Any, version: Any, champion: Any, predictions: Path) -> tuple[bool, str]:
    """Whether `version` takes the place of `champion`, and why."""
    if champion.version == version.version:
        return True, "the first adapter"
    rival = f"champion (version {champion.version})"
    if champion.tags["data_md5"] != version.tags["data_md5"]:
        return False, f"the {rival} was evaluated on other data, which cannot be compared"
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(champion.run_id, predictions.name, folder)
        gap = difference(pd.read_csv(predictions), pd.read_csv(path))
    if gap is None:
        return False, f"the {rival} was evaluated on other frames, which cannot be compared"
    mean, low, high = gap
    return high < 0, f"{mean:+.2f} people against the {rival}, 95 % of {low:+.2f} to {high:+.2f}"


def difference(new: pd.DataFrame, old: pd.DataFrame) -> tuple[float, float, float] | None:
    """MAE of `new` less that of `old` and its 95 % interval, frame by frame and by blocks; None
    when they do not hold the same frames with the same labels.
    """
    truth = ["frame", "count"]
    if not new[truth].equals(old[truth]):
        return None
    errors = [(f["predicted"] - f["count"]).abs().to_numpy(dtype=float) for f in (new, old)]
    gap = errors[0] - errors[1]
    return (float(gap.mean()), *mean_interval(gap))


def find(client: Any, adapter: str) -> Any:
    """The version of the adapter with this sha256, or None."""
    query = f"name = '{MODEL}' and tags.adapter = '{adapter}'"
    found = client.search_model_versions(query)
    return client.get_model_version(MODEL, found[0].version) if found else None


def create(client: Any, run: Any, tags: Mapping[str, str]) -> Any:
    """A version of the adapter that is stored as a logged model with the tag `adapter`."""
    from mlflow.exceptions import MlflowException

    query = f"tags.adapter = '{tags['adapter']}'"
    found = client.search_logged_models([run.info.experiment_id], filter_string=query)
    model = next(model for model in found if model.status == "READY")
    with suppress(MlflowException):  # it exists
        client.create_registered_model(MODEL, description="Counts the people in a camera's frames")
    where, run_id = model.artifact_location, run.info.run_id
    return client.create_model_version(
        MODEL, where, run_id, tags=dict(tags), model_id=model.model_id
    )


def by_alias(client: Any, alias: str) -> Any:
    """The version that `alias` names, or None."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(MODEL, alias)
    except MlflowException as error:
        if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            return None
        raise


def tag_version(client: Any, adapter: str, tags: Mapping[str, str]) -> None:
    """Add `tags`, a receipt's, to the version of the adapter with this sha256, if there is one."""
    version = find(client, adapter)
    for name, value in tags.items() if version else ():
        client.set_model_version_tag(MODEL, version.version, name, value)


def champion_folder() -> Path:
    """The champion's adapter, with the recipe of its evaluation, fetched once. Raises UserError
    when there is no champion or the tracker is lost.
    """
    _, version = _reached(lambda client: by_alias(client, CHAMPION))
    if version is None:
        raise UserError(
            f"champion: {MODEL} has none in {masked(tracking_uri())}; run `dvc repro`, or name "
            "a folder"
        )
    adapter = version.tags["adapter"]
    folder = state_root() / ".cache" / CHAMPION / f"{version.version}-{adapter[:12]}"
    if not folder.exists():
        with new_folder(folder) as partial:
            fetch(version, partial)
    return folder


def fetch(version: Any, folder: Path) -> None:
    """Fill `folder` with a version's files. Raises UserError when the store has lost them."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        with tempfile.TemporaryDirectory() as there:
            found = mlflow.artifacts.download_artifacts(
                version.source, dst_path=there, tracking_uri=tracking_uri()
            )
            copytree(found, folder, dirs_exist_ok=True)
    except (MlflowException, OSError) as error:
        raise UserError(
            f"{MODEL} version {version.version}: its files cannot be fetched "
            f"({masked(' '.join(str(error).split()))[:120]}); if the repository was moved, run "
            "`llava-dvc runs --relocate`"
        ) from None
    reading = {name: version.tags[name] for name in READING}
    recipe = Recipe.read(folder).model_dump() | reading
    Recipe.model_validate(recipe).write(folder)


def _reached(ask: Any) -> tuple[Any, Any]:
    """A client and its answer. Raises UserError when the tracker is lost."""
    from mlflow.exceptions import MlflowException

    try:
        client, _ = connect()
        return client, ask(client)
    except (MlflowException, OSError) as error:
        raise lost(error) from None
