"""A cache of the images that could be decoded, so that prepare decodes only new ones.

An image is known by the SHA-256 of its bytes. Its name, size and date do not matter. A change of
the rules in `images.py` or of Pillow's version starts an empty cache. The file may be deleted at
any time. Damaged lines in it match no image.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

import PIL

from llava_dvc.data import images
from llava_dvc.errors import UserError
from llava_dvc.files import new_file


class DecodeCache:
    """The digests of images that could be decoded."""

    def __init__(self, path: Path | None = None) -> None:
        """Loads the digests in `path`; without a path nothing is loaded or saved."""
        self._path = path
        self._known = frozenset(_load_digests(path)) if path else frozenset()
        self._used: set[bytes] = set()

    @classmethod
    def in_repository(cls, root: Path) -> "DecodeCache":
        """The cache in the repository `root` for the present rules and Pillow's version."""
        source = Path(images.__file__).read_bytes()
        rules = hashlib.sha256(source + PIL.__version__.encode()).hexdigest()
        return cls(root / "checked" / f"{rules[:16]}.txt")

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, digest: bytes) -> None:
        self._used.add(digest)

    def save(self) -> None:
        """Writes the digests added in this run; digests of earlier runs are dropped."""
        if self._path is None or self._used == self._known:
            return
        # A cache that cannot be written only makes the next run slower.
        with suppress(OSError, UserError), new_file(self._path) as file, file.open("w") as lines:
            lines.writelines(f"{digest.hex()}\n" for digest in sorted(self._used))


def _load_digests(path: Path) -> set[bytes]:
    if not path.is_file():
        return set()
    digests = set()
    with path.open(errors="replace") as lines:
        for line in lines:
            with suppress(ValueError):
                digests.add(bytes.fromhex(line))
    return digests
