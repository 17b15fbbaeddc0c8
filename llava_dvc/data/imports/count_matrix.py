"""Reads counts and head points in mall_gt.mat, within limits: a small file can unpack to a huge
one.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from scipy.io import loadmat, whosmat

from llava_dvc.data.points import Points
from llava_dvc.errors import UserError

MAX_BYTES = 128 * 2**20
"""Of the file, and of everything that is packed in it. The authors' file has 1 MB."""
MAX_FRAMES = 1_000_000
NUMBERS = {"double", "single", "logical"} | {
    f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
"""Classes of variables, as `whosmat` names them."""

_HEADER = 128  # bytes of a file of MATLAB 5 and later, before its first variable
_COMPRESSED = 15
_CHUNK = 2**16


def read_matrix_counts(path: Path) -> dict[int, int]:
    """People by number: `count` of mall_gt.mat, a row per frame from frame 1; raises UserError."""
    try:
        _require_small(path)
        values = np.ravel(loadmat(path, variable_names=["count"])["count"]).astype(float)
    except Exception as error:  # loadmat raises almost any exception on a broken file
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: `count` cannot be read ({reason}). Download the file again."
        ) from None
    bad = np.flatnonzero(~np.isfinite(values) | (values < 0) | (values != np.rint(values)))
    if bad.size:
        raise UserError(
            f"{path}: count of frame {bad[0] + 1} is {values[bad[0]]:g}, expected a whole number "
            ">= 0. Download the file again."
        )
    return {number: int(value) for number, value in enumerate(values, start=1)}


def read_matrix_points(path: Path) -> dict[int, Points]:
    """Head points by number: `frame` of mall_gt.mat, a cell per frame with `loc`, (people, 2).

    Empty if the file has no `frame`. Raises UserError.
    """
    try:
        require_bounded(path)
        shapes = [shape for name, shape, kind in whosmat(path) if (name, kind) == ("frame", "cell")]
        if not shapes:
            return {}
        if (size := np.prod(shapes[0], dtype=float)) > MAX_FRAMES:
            raise ValueError(f"it has {size:,.0f} cells, more than {MAX_FRAMES:,}")
        cells = np.ravel(loadmat(path, variable_names=["frame"])["frame"])
        heads = (np.asarray(cell["loc"].item(), float).reshape(-1, 2) for cell in cells)
        return {number: list(map(tuple, loc.tolist())) for number, loc in enumerate(heads, start=1)}
    except Exception as error:  # as above
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: `frame` cannot be read ({reason}). Download the file again."
        ) from None


def require_bounded(path: Path) -> None:
    """Raises ValueError if reading the file would take much memory."""
    if path.stat().st_size > MAX_BYTES or _unpacked_bytes(path) > MAX_BYTES:
        raise ValueError(f"the file unpacks to more than {MAX_BYTES:,} bytes")


def _require_small(path: Path) -> None:
    """Raises ValueError unless `count` is there once, as at most MAX_FRAMES numbers."""
    require_bounded(path)
    found = [(shape, kind) for name, shape, kind in whosmat(path) if name == "count"]
    if len(found) != 1:
        raise ValueError(f"the file has {len(found)} variables of this name")
    shape, kind = found[0]
    if kind not in NUMBERS:
        raise ValueError(f"it is of the class {kind}")
    if (size := np.prod(shape, dtype=float)) > MAX_FRAMES:
        raise ValueError(f"it has {size:,.0f} values, more than {MAX_FRAMES:,}")


def _unpacked_bytes(path: Path) -> int:
    """Bytes of the compressed variables when unpacked. Stops above MAX_BYTES, and keeps nothing."""
    total = 0
    with path.open("rb") as file:
        order = "<" if file.read(_HEADER)[-2:] == b"IM" else ">"
        while len(tag := file.read(8)) == 8:
            kind, size = struct.unpack(f"{order}II", tag)
            if kind != _COMPRESSED:
                file.seek(size, 1)
                continue
            unpacker = zlib.decompressobj()
            while size > 0 and (packed := file.read(min(size, _CHUNK))):
                size -= len(packed)
                while packed and total <= MAX_BYTES:
                    total += len(unpacker.decompress(packed, _CHUNK))
                    packed = unpacker.unconsumed_tail
    return total
