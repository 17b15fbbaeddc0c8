"""The cameras that `llava-dvc watch` is given, and how they are named without their passwords."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from llava_dvc.errors import UserError

CameraKind = Literal["rtsp", "http", "device", "file"]
SCHEMES: dict[str, CameraKind] = {
    "rtsp": "rtsp", "rtsps": "rtsp", "http": "http", "https": "http",
}  # fmt: skip

_NAMED = re.compile(r"(?P<name>[\w.-]+)=(?P<address>.+)", re.DOTALL)
_ADDRESS = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*)://.*", re.DOTALL)
_NOT_IN_NAMES = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class CameraAddress:
    """Where the frames of one camera come from."""

    name: str
    """Letters, digits, `_`, `.` and `-`. All rows, metrics and messages use it."""
    kind: CameraKind
    url: str = field(repr=False)
    """With its password. Only libav sees it."""


def parse_cameras(sources: Sequence[str], realtime: bool) -> list[CameraAddress]:
    """Returns the cameras of all `sources`: `ADDRESS` or `NAME=ADDRESS`.

    A camera without a name has that of its host, device or file, with a number if that is taken.
    Raises UserError for an address that cannot be read. No error repeats an address with a scheme:
    it may hold a password anywhere.
    """
    cameras: list[CameraAddress] = []
    for number, source in enumerate(sources, 1):
        named = _NAMED.fullmatch(source)
        name, address = (named["name"], named["address"]) if named else ("", source)
        kind, host = _kind_and_place(address, f"source {number}", realtime)
        taken = {camera.name for camera in cameras}
        if name in taken:
            raise UserError(f"source {number}: the name {name} is taken. Give it another one.")
        cameras.append(CameraAddress(name or _free_name(host, taken), kind, address))
    return cameras


def _kind_and_place(address: str, source: str, realtime: bool) -> tuple[CameraKind, str]:
    """Returns the kind of an address, and its host, device or file for a name."""
    if found := _ADDRESS.fullmatch(address):
        kind = SCHEMES.get(found["scheme"].lower())
        if kind is None:
            raise UserError(
                f"{source}: its scheme is {found['scheme']}. Give an address that begins with "
                f"{', '.join(f'{scheme}://' for scheme in SCHEMES)}, a device or a file."
            )
        return kind, _split(address, source).hostname or ""
    path = Path(address)
    if path.is_char_device():
        return "device", path.name
    if not path.is_file():
        raise UserError(f"{source}: {address}: not found. Correct the path.")
    if not realtime:
        raise UserError(
            f"{source}: {address}: is a file. Add --realtime to play it at its own speed, or count "
            "it with `llava-dvc predict`."
        )
    return "file", path.stem


def _split(address: str, source: str) -> SplitResult:
    """Raises UserError when it is unclear where the password ends: a part of it would be shown."""
    try:
        parts = urlsplit(address)
        clear = parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        clear = False
    if not clear or "@" in address.partition("://")[2].removeprefix(parts.netloc):
        raise UserError(
            f"{source}: its address cannot be read. Write SCHEME://USER:PASSWORD@HOST:PORT/PATH, "
            "and in user, password and path @ as %40, / in a password as %2F, # as %23, ? as %3F "
            "and : as %3A."
        )
    return parts


def _free_name(place: str, taken: set[str]) -> str:
    name = _NOT_IN_NAMES.sub("_", place) or "camera"
    names = (name, *(f"{name}_{number}" for number in range(2, len(taken) + 2)))
    return next(one for one in names if one not in taken)
