"""Zones that annotators drew in Label Studio become outlines in `data/zones.json`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llava_dvc.data.data_errors import DataError, DataProblem
from llava_dvc.data.images import Size, upright_size
from llava_dvc.data.imports.annotations import AnnotationError, number_from, text_from
from llava_dvc.data.imports.formats.label_studio import zone_results
from llava_dvc.data.zones import ZONES, checked_zones, zone_mask
from llava_dvc.errors import UserError
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.recipe import ANY_CAMERA

Outline = list[list[float]]
Outlines = dict[str, dict[str, Outline]]
"""By the name of the zone, then by camera."""


class DrawnZone(NamedTuple):
    time: str
    """Of the last change, in ISO form and UTC."""
    name: str
    camera: str
    outline: Outline
    """In pixels of the frame."""


def bring_zones(
    pool: LabelPool, tasks: Sequence[Mapping[str, Any]], say: Callable[[str], object]
) -> Outlines | None:
    """What zones.json becomes; None if it stays as it is.

    Of several outlines of a zone the newest counts. An outline that is in zones.json stays.
    Raises DataError for outlines that could not be used.
    """
    drawn, problems = _all_drawn(pool, tasks)
    if problems:
        raise DataError(problems)
    newest = {(one.name, one.camera): one for one in sorted(drawn)}
    path = pool.data / ZONES
    zones = _read_outlines(path)
    changed = False
    for (name, camera), one in newest.items():
        if others := sum((o.name, o.camera) == (name, camera) for o in drawn) - 1:
            say(f"Zone {name} for camera {camera}: the newest of {others + 1} outlines is taken.\n")
        ours = zones.get(name, {}).get(camera)
        if ours is None:
            zones.setdefault(name, {})[camera] = one.outline
            changed = True
            say(f"{path}: zone {name} for camera {camera}, {len(one.outline)} corners.\n")
        elif ours != one.outline:
            say(
                f"{path}: zone {name} for camera {camera} has another outline than in Label "
                "Studio, and stays. To take that one, delete it there and run this again.\n"
            )
    return zones if changed else None


def _read_outlines(path: Path) -> Outlines:
    """The content of zones.json, checked; empty without the file. Raises DataError."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}). Correct it, or delete it.") from None
    checked_zones(path, content, "")
    outlines: Outlines = content
    return outlines


def _all_drawn(
    pool: LabelPool, tasks: Sequence[Mapping[str, Any]]
) -> tuple[list[DrawnZone], list[DataProblem]]:
    """The outlines that can be used, and the problems of all others."""
    drawn: list[DrawnZone] = []
    problems = []
    for task in tasks:
        for annotation in task["annotations"]:
            if annotation.get("was_cancelled"):
                continue
            try:
                drawn += _drawn_in(pool, task["data"], annotation)
            except (UserError, AnnotationError) as error:
                place = f"task {task['id']}: {task['data']['frame']}"
                problems.append(DataProblem("zone", place, str(error)))
    return drawn, problems


def _drawn_in(
    pool: LabelPool, data: Mapping[str, Any], annotation: Mapping[str, Any]
) -> Iterator[DrawnZone]:
    """The zones of one annotation; raises UserError or AnnotationError."""
    frame = data["frame"]
    camera = pool.camera(frame) or data.get("camera") or ANY_CAMERA
    size = upright_size(pool.path(frame))
    seen = set()
    for result in zone_results(annotation):
        name = _name_in(result)
        if name in seen:
            raise AnnotationError(f"zone {name} is drawn twice. Delete one of the two.")
        seen.add(name)
        outline = _outline_in(result, size, name)
        corners = tuple((x, y) for x, y in outline)
        checked_zones(pool.data / ZONES, {name: {camera: outline}}, name)
        zone_mask(size, corners, name)
        yield DrawnZone(str(annotation.get("updated_at", "")), name, camera, outline)


def _name_in(result: Mapping[str, Any]) -> str:
    labels = result.get("value", {}).get("polygonlabels") or [""]
    return text_from(labels[0], "the zone's label")


def _outline_in(result: Mapping[str, Any], size: Size, name: str) -> Outline:
    """The corners in pixels; raises AnnotationError. Label Studio gives percent."""
    found = result.get("original_width"), result.get("original_height")
    if found != size:
        raise AnnotationError(
            f"zone {name} is drawn on {found[0]}x{found[1]} pixels, but the frame has "
            f"{size[0]}x{size[1]}. Send the frame again, and draw it there."
        )
    if result.get("image_rotation"):
        raise AnnotationError(f"zone {name} is drawn on a turned picture. Turn it back.")
    return [
        [
            round(number_from(percent, "a corner") / 100 * side, 2)
            for percent, side in zip(corner, size, strict=True)
        ]
        for corner in result["value"].get("points", [])
    ]
