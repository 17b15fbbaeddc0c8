"""Which adapter the service counts with, and how well it counted when it was evaluated."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from llava_dvc import errors
from llava_dvc.recipe import MANIFEST, Recipe, manifest_entry, read_manifest, read_object

EVALUATION = "metrics/evaluate.json"
"""In a published folder. Its manifest lists it."""


class MeasuredError(BaseModel):
    """The error of an adapter in its evaluation."""

    mae: float = Field(description="Mean absolute error in people")
    mae_ci_low: float = Field(description="Lower end of its 95 % interval")
    mae_ci_high: float = Field(description="Upper end of its 95 % interval")
    frames: int = Field(description="Frames of the evaluation. Training has not seen them")


class ServedModel(BaseModel):
    """What `GET /model` returns."""

    adapter: str = Field(description="Name of its folder, or its id on the Hub")
    backbone: str = Field(description="Folder or Hub id of the backbone")
    measured: MeasuredError | None = Field(
        default=None, description="null for a folder that the publish stage has not built"
    )
    keeps_corrections: bool = Field(
        default=False, description="Whether POST /corrections keeps frames"
    )
    zone: str | None = Field(
        description="In which frames are counted if a request names none; null is the whole frame"
    )
    zones: dict[str, list[str]] = Field(
        description="The zones that a request may name, with the cameras that have an outline of "
        "their own; * is every other camera"
    )

    @classmethod
    def from_recipe(
        cls, adapter: str, recipe: Recipe, measured: MeasuredError | None = None
    ) -> "ServedModel":
        zones = recipe.zones
        return cls(
            adapter=adapter,
            backbone=recipe.backbone.name,
            measured=measured,
            zone=zones.name if zones else None,
            zones={name: list(one) for name, one in zones.polygons.items()} if zones else {},
        )


def describe_model(adapter: str | Path, folder: Path, recipe: Recipe) -> ServedModel:
    """Describes the adapter in `folder`, which the user named as `adapter`.

    Raises UserError when the manifest is not ours, or the evaluation is not the one it lists.
    """
    name = Path(adapter).resolve().name if Path(adapter).is_dir() else str(adapter)
    return ServedModel.from_recipe(name, recipe, _measured_error(folder))


def read_evaluation(folder: Path) -> dict[str, Any] | None:
    """Returns the figures of a published folder's evaluation; None if it is another folder.

    Raises UserError when the manifest is not ours, or the evaluation is not the one it lists.
    """
    if not (folder / MANIFEST).is_file() or not (folder / EVALUATION).is_file():
        return None
    listed = {entry["path"]: entry for entry in read_manifest(folder)["files"]}
    if listed.get(EVALUATION) != manifest_entry(folder, EVALUATION):
        raise errors.adapter_file_differs(folder / EVALUATION, "changed")
    return read_object(folder / EVALUATION)


def _measured_error(folder: Path) -> MeasuredError | None:
    metrics = read_evaluation(folder)
    if metrics is None:
        return None
    wanted = MeasuredError.model_fields
    if any(metrics.get(name) is None for name in wanted):  # of an older version
        return None
    return MeasuredError(**{name: metrics[name] for name in wanted})
