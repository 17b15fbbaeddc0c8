"""Writes to TensorBoard what belongs to one run. Needs no tracker and raises no OSError."""

from collections.abc import Callable
from pathlib import Path

from llava_dvc.errors import UserError
from llava_dvc.files import state_root
from llava_dvc.tracking.run_lookup import RunIdentity
from llava_dvc.tracking.tensorboard import EventWriter, warn_lost
from llava_dvc.tracking.tensorboard_folder import Claim, claim_folder, settle_folder


class TensorboardRun:
    """The folder of a result and the event file of this process in it."""

    def __init__(self, identity: RunIdentity) -> None:
        self._identity = identity
        self._claim: Claim | None = None
        self._events: EventWriter | None = None
        self._adapter: str | None = None  # sha256, at the end of a training
        self._has_failed = False

    @property
    def folder_names(self) -> dict[str, str]:
        """The names of the folders that were claimed or renamed, by MLflow's id of their run."""
        return self._claim.names if self._claim else {}

    def draw(self, call: Callable[[EventWriter], None], run_id: str | None) -> None:
        """Calls `call` with the event file, which is made at the first call."""
        if self._claim is None and not self._has_failed:
            self._change_folders(lambda: claim_folder(self._runs, self._identity, run_id))
            self._settle_claim(run_id)
        if self._events is None and self._claim is not None:
            stage = self._identity.stage
            self._events = EventWriter(self._claim.folder, "" if stage == "train" else stage)
        if self._events is not None:
            call(self._events)

    def settle(self, adapter: str, run_id: str | None) -> None:
        """Notes the adapter's sha256 at the end of a training."""
        self._adapter = adapter
        self._settle_claim(run_id)

    def close(self) -> None:
        if self._events:
            self._events.close()
            self._events = None

    def _settle_claim(self, run_id: str | None) -> None:
        claim, adapter = self._claim, self._adapter
        if claim is not None and adapter is not None:
            self.close()
            self._change_folders(lambda: settle_folder(claim, self._identity, adapter, run_id))

    @property
    def _runs(self) -> Path:
        return state_root() / "runs"

    def _change_folders(self, change: Callable[[], Claim]) -> None:
        try:
            self._claim = change()
        except (OSError, UserError) as error:
            self._claim, self._has_failed = None, True
            warn_lost(self._runs / self._identity.name, error)
