"""The folder of each result in runs/, whose name TensorBoard shows.

The newest result has the folder NAME. Older results of the same name have NAME.1, NAME.2 and so on.
A file in each folder says whose it is. It is found without the tracker.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from llava_dvc.files import state_root
from llava_dvc.tracking.run_lookup import RunIdentity
from llava_dvc.tracking.state_lock import state_lock

OWNER_FILE = "run.json"


@dataclass
class Owner:
    """The content of OWNER_FILE."""

    keys: dict[str, str] = field(default_factory=dict)
    """The key of each stage that has written here."""
    adapter: str | None = None
    """sha256; None before the end of a training."""
    run_id: str | None = None
    """MLflow's id of the run; None when the tracker was lost."""

    def has_key(self, identity: RunIdentity) -> bool:
        """Whether this is the same result. A training that has ended is not continued."""
        is_ended = identity.stage == "train" and self.adapter is not None
        return self.keys.get(identity.stage) == identity.key and not is_ended

    def has_training(self, identity: RunIdentity) -> bool:
        """Whether this is the training of an adapter that has no evaluation here yet."""
        is_free = identity.adapter is not None and identity.stage not in self.keys
        return is_free and self.adapter == identity.adapter


@dataclass
class Claim:
    """A folder to write to."""

    folder: Path
    names: dict[str, str] = field(default_factory=dict)
    """The names of this folder and of renamed ones, by MLflow's id of their run."""


def claim_folder(runs: Path, identity: RunIdentity, run_id: str | None) -> Claim:
    """The folder of a result in `runs`. A new result takes the folder of its name; the older
    result there gets a number.
    """
    with folder_lock():
        claim = Claim(runs / identity.name)
        own = find_folder(runs, identity)
        if own is not None and not is_older(own, claim.folder):
            claim.folder = own
        elif own != claim.folder:
            claim.names = take_name(claim.folder, own)
        claim.folder.mkdir(parents=True, exist_ok=True)
        owner = read_owner(claim.folder)
        owner.keys[identity.stage] = identity.key
        owner.adapter = owner.adapter or identity.adapter
        sign_folder(claim, owner, run_id)
    return claim


def settle_folder(claim: Claim, identity: RunIdentity, adapter: str, run_id: str | None) -> Claim:
    """Notes the adapter at the end of a training. If an older training with the same key has made
    an equal adapter, its folder takes the name back, and the new folder is deleted.
    """
    with folder_lock():
        for folder, owner in owners(claim.folder.parent):
            is_equal = owner.keys.get("train") == identity.key and owner.adapter == adapter
            if is_equal and folder != claim.folder:
                shutil.rmtree(claim.folder)
                if not is_older(folder, claim.folder):
                    return Claim(folder)
                return Claim(claim.folder, take_name(claim.folder, folder))
        owner = read_owner(claim.folder)
        owner.adapter = adapter
        sign_folder(claim, owner, run_id)
    return claim


def sign_folder(claim: Claim, owner: Owner, run_id: str | None) -> None:
    """Writes the OWNER_FILE of a claimed folder. `run_id` is None when MLflow's run is unknown."""
    if run_id:
        owner.run_id = run_id
        claim.names[run_id] = claim.folder.name
    write_owner(claim.folder, owner)


def folder_lock() -> AbstractContextManager[None]:
    """The lock for a change of names in runs/. It is not in runs/, which holds only results.

    Raises UserError when another process does not release it.
    """
    return state_lock(state_root() / ".cache" / "runs.lock")


def find_folder(runs: Path, identity: RunIdentity) -> Path | None:
    """The folder of the same result, else of the adapter's training, else None."""
    found = list(owners(runs))
    same = [folder for folder, owner in found if owner.has_key(identity)]
    same += [folder for folder, owner in found if owner.has_training(identity)]
    return same[0] if same else None


def is_older(folder: Path, named: Path) -> bool:
    """Whether `folder` is NAME.1, NAME.2 and so on of `named`."""
    return bool(re.fullmatch(rf"{re.escape(named.name)}\.\d+", folder.name))


def take_name(folder: Path, own: Path | None) -> dict[str, str]:
    """Frees the name `folder`, and gives it to `own`. Returns the new names by run id."""
    renamed = {}
    if folder.exists():
        numbers = [int(p.suffix[1:]) for p in folder.parent.iterdir() if is_older(p, folder)]
        older = folder.with_name(f"{folder.name}.{max(numbers, default=0) + 1}")
        folder.rename(older)
        renamed[read_owner(older).run_id] = older.name
    if own is not None:
        own.rename(folder)
        renamed[read_owner(folder).run_id] = folder.name
    return {run_id: name for run_id, name in renamed.items() if run_id}


def owners(runs: Path) -> Iterator[tuple[Path, Owner]]:
    """The folders in `runs` with an OWNER_FILE, the newest first."""
    files = sorted(runs.glob(f"*/{OWNER_FILE}"), key=lambda p: p.stat().st_mtime_ns, reverse=True)
    for file in files:
        yield file.parent, read_owner(file.parent)


def read_owner(folder: Path) -> Owner:
    """An empty Owner when the folder has no OWNER_FILE, or one that is cut off."""
    with suppress(OSError, ValueError, TypeError):
        return Owner(**json.loads((folder / OWNER_FILE).read_text(encoding="utf-8")))
    return Owner()


def write_owner(folder: Path, owner: Owner) -> None:
    partial = folder / f".{OWNER_FILE}.partial"
    partial.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    partial.replace(folder / OWNER_FILE)
