"""The bar of a training."""

from collections.abc import Mapping
from typing import Any

from transformers import TrainerCallback

from llava_dvc.terminal.progress import ProgressBar, stage_label, tell

FIGURES = {"loss": "loss", "eval_mae": "validation MAE"}  # transformers' names and ours


class TrainingProgress(TrainerCallback):
    """Shows the steps, the last loss, the last validation MAE and the time left."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._shown: dict[str, float] = {}
        self._bar: ProgressBar | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar = ProgressBar(stage_label(self._stage), state.max_steps, state.global_step)
        for logs in state.log_history:
            self._show(logs)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
        self._show(logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar:
            self._bar.advance(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Not called if a signal stops the training: `StopOnSignal` exits before."""
        if self._bar:
            self._bar.close()
        tell(self._stage, training_summary(state))

    def _show(self, logs: Mapping[str, float]) -> None:
        self._shown |= {FIGURES[name]: logs[name] for name in FIGURES if name in logs}
        if self._bar:
            self._bar.show(", ".join(f"{name} {value:.2f}" for name, value in self._shown.items()))


def training_summary(state: Any) -> str:
    """The best validation of a Trainer's state, and how many steps were made."""
    steps = f"{state.global_step} of {state.max_steps} steps"
    errors = {
        entry["step"]: entry["eval_mae"] for entry in state.log_history if "eval_mae" in entry
    }
    if not errors:
        return steps
    best = min(errors, key=lambda step: (errors[step], step))
    return f"{steps}, validation MAE {errors[best]:.2f} people after step {best}"
