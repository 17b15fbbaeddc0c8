"""Reads data/zones.json: the areas in which people are counted.

    {"tills": {"*": [[0, 120], [320, 120], [320, 240], [0, 240]]}}

A zone has a name, and an outline for each camera. `*` stands for every camera without an outline of
its own. Everything outside the zone gets one colour, for training and for counting alike.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from pydantic import ValidationError

from llava_dvc import errors
from llava_dvc.data.data_errors import DataError, DataProblem, printable_name
from llava_dvc.data.frames import Frame
from llava_dvc.data.images import Size, decode_image, upright_size
from llava_dvc.errors import UserError
from llava_dvc.recipe import Polygon, Zones

ZONES = "zones.json"
OUTSIDE = (122, 116, 104)
"""The vision tower's mean colour. `image.geometry: pad` fills with it too."""
REMEDY = "docs/data.md has the form."


def frames_in_zone(
    frames: Sequence[Frame], data: Path, name: str | None
) -> tuple[list[Frame], Zones | None]:
    """The frames with the outline of the zone `name`, and all zones. Without a name, as they are.

    With points, the count becomes the number of people in the zone. Without points, labels.csv
    has that number already. Raises DataError when zones.json cannot be used for every frame.
    """
    if name is None:
        return list(frames), None
    zones = read_zones(data / ZONES, name)
    found, problems = [], []
    for frame in frames:
        try:
            found.append(_in_zone(frame, zones))
        except UserError as error:
            text = f"{printable_name(frame.name)}: {error}"
            problems.append(DataProblem("zone", str(data / ZONES), text, frame.name))
    if problems:
        raise DataError(problems)
    return found, zones


def read_zones(path: Path, name: str) -> Zones:
    """All zones of a file, with `name` as that of the training. Raises DataError."""
    try:
        zones = checked_zones(path, json.loads(path.read_text(encoding="utf-8")), name)
    except FileNotFoundError:
        raise _invalid(path, f"not found, but data.zone is {name}. Write it: {REMEDY}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _invalid(path, f"not JSON: {error}. {REMEDY}") from None
    if name not in zones.polygons:
        known = ", ".join(zones.polygons) or "none"
        raise _invalid(path, f"has no zone {name}, which data.zone asks for. It has: {known}.")
    return zones


def checked_zones(path: Path, polygons: object, name: str) -> Zones:
    """The zones of the file `path`, which has this content. Raises DataError."""
    try:
        return Zones.model_validate({"name": name, "polygons": polygons})
    except ValidationError as error:
        raise _invalid(path, _first_fault(error.errors()[0])) from None


def paint_outside(image: Image.Image, polygon: Polygon, name: str = "") -> Image.Image:
    """A copy of an RGB image in which everything outside the outline has one colour.

    Raises UserError when a corner is outside of the image; `name` is that of the zone.
    """
    painted = Image.new("RGB", image.size, OUTSIDE)
    painted.paste(image, mask=zone_mask(image.size, polygon, name))
    return painted


def zone_mask(size: Size, polygon: Polygon, name: str = "") -> Image.Image:
    """A picture of 8 bits a pixel: 255 in the zone, 0 outside. Raises UserError, see above."""
    for x, y in polygon:
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise errors.zone_outside_frame(name, (x, y), size)
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon(list(polygon), fill=255)
    return mask


def painted_bytes(content: bytes, polygon: Polygon) -> bytes:
    """The bytes of a picture as a PNG of what is in the zone."""
    file = BytesIO()
    paint_outside(decode_image(content), polygon).save(file, "PNG")
    return file.getvalue()


def _in_zone(frame: Frame, zones: Zones) -> Frame:
    polygon = zones.polygon(camera=frame.camera)
    mask = zone_mask(upright_size(frame.path), polygon, zones.name)
    if frame.points is None:
        return replace(frame, zone=polygon)
    inside = [(x, y) for x, y in frame.points if mask.getpixel(_pixel(x, y, mask.size))]
    return replace(frame, zone=polygon, points=inside, count=len(inside))


def _pixel(x: float, y: float, size: Size) -> tuple[int, int]:
    """The pixel with a point in it. A point on the right or lower edge is in the last one."""
    return min(int(x), size[0] - 1), min(int(y), size[1] - 1)


def _first_fault(fault: Any) -> str:
    """The first fault that pydantic found, in one line."""
    where = ".".join(str(part) for part in fault["loc"][1:])
    return f"{where + ': ' if where else ''}{fault['msg']}. {REMEDY}"


def _invalid(path: Path, text: str) -> DataError:
    return DataError([DataProblem("zone", str(path), text, skippable=False)])
