"""Files in `data/` that only exist there: an import must not delete them."""

import json
import subprocess
import sys
from pathlib import Path

from llava_dvc.data.zones import ZONES
from llava_dvc.errors import UserError

_KEPT = ("messages.txt", ZONES)
"""An import keeps them."""


def require_saved(data: Path) -> None:
    """Raises UserError if DVC's cache lacks a file of `data` that an import would delete.

    Without a repository of DVC nothing is checked: the import cannot end there.
    """
    root = data.absolute().parent
    if not data.is_dir() or not (root / ".dvc").is_dir():
        return
    unsaved = [path for path in _changed_files(root, data.name) if Path(path).name not in _KEPT]
    if unsaved:
        more = f" and {len(unsaved) - 1} more files" if len(unsaved) > 1 else ""
        raise UserError(
            f"{unsaved[0]}{more}: not in DVC, and this import would delete them. Add the new "
            f"frames to them with `import --add`, keep them with `rm -f {data.name}.dvc && dvc add "
            f"{data.name}`, or delete {data}."
        )


def _changed_files(root: Path, name: str) -> list[str]:
    """The files of the folder `name` that DVC does not have as they are now."""
    if not (root / f"{name}.dvc").is_file():
        found = (path for path in sorted((root / name).rglob("*")) if path.is_file())
        return [path.relative_to(root).as_posix() for path in found]
    command = [sys.executable, "-m", "dvc", "data", "status", "--granular", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    try:
        changes = json.loads(done.stdout).get("uncommitted", {})  # missing if there are none
    except ValueError:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise UserError(
            f"{name}: `dvc data status` fails ({reason}). Correct that first."
        ) from None
    files = [path for kind in ("modified", "added") for path in changes.get(kind, [])]
    return sorted(p for p in files if p.startswith(f"{name}/") and not p.endswith("/"))
