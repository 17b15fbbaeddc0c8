"""Which pictures have been decoded before, so that only new ones are.

A picture is known by the SHA-256 of its bytes: changed bytes are another picture, whatever its
name, size and date say. What passed under other rules or another Pillow is forgotten. The file can
be deleted at any time, and a damaged line in it is the digest of nothing.
"""

import hashlib
from contextlib import suppress
from pathlib import Path

import PIL

from llava_dvc.data import images
from llava_dvc.errors import UserError
from llava_dvc.files import new_file


class Checked:
    """The digests of pictures that passed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known = frozenset(_read(path)) if path else frozenset()
        self._seen: set[bytes] = set()

    @classmethod
    def of(cls, root: Path) -> "Checked":
        """What the repository at `root` remembers, under the present rules."""
        source = Path(images.__file__).read_bytes()
        rules = hashlib.sha256(source + PIL.__version__.encode()).hexdigest()
        return cls(root / "checked" / f"{rules[:16]}.txt")

    @classmethod
    def forgetful(cls) -> "Checked":
        """Knows nothing and keeps nothing."""
        return cls(None)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._known

    def add(self, digest: bytes) -> None:
        self._seen.add(digest)

    def save(self) -> None:
        """Keep this run's digests for the next one; older ones are dropped."""
        if self._path is None or self._seen == self._known:
            return
        # Without it the next run takes longer: no reason to fail this one.
        with suppress(OSError, UserError), new_file(self._path) as file, file.open("w") as lines:
            lines.writelines(f"{digest.hex()}\n" for digest in sorted(self._seen))


def _read(path: Path) -> set[bytes]:
    if not path.is_file():
        return set()
    known = set()
    with path.open(errors="replace") as lines:
        for line in lines:
            try:
                known.add(bytes.fromhex(line))
            except ValueError:
                continue
    return known
