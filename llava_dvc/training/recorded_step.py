"""The forward and backward pass of a training step as one CUDA graph.

Launching the thousands of kernels of a step from Python can take longer than the GPU needs to
compute them. A graph launches all of them at once.
"""

import gc
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from llava_dvc.load_errors import first_line
from llava_dvc.model.cuda_recorder import Replay
from llava_dvc.model.encoder import Batch

Returned = TypeVar("Returned")
Losses = tuple[Tensor, ...]
Step = Callable[[Batch, Tensor], Losses]
"""Computes the losses of a batch, and leaves its gradients in the parameters. Gets a batch of its
own and the number of answer tokens.
"""
Results = tuple[Losses, list[Tensor]]
"""The losses, and the gradients of the parameters that learn."""
Record = Callable[[Callable[[], Results]], tuple[Replay, Results]]
"""As CudaRecorder's."""


@dataclass(frozen=True)
class Recording:
    """A recorded step, and the memory that it reads and writes."""

    batch: Batch
    tokens: Tensor
    replay: Replay
    losses: Losses
    gradients: list[tuple[nn.Parameter, Tensor]]

    def run(self, batch: Batch, tokens: Tensor) -> Losses:
        """The losses of `batch`. The parameters have its gradients afterwards."""
        for name, kept in self.batch.items():
            if isinstance(kept, Tensor):
                kept.copy_(batch[name], non_blocking=True)
        self.tokens.copy_(tokens)
        self.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return tuple(loss.clone() for loss in self.losses)


class RecordedStep:
    """Runs training steps. The second one is recorded: after the first, the optimizer holds the
    memory that it needs. Batches of another shape run as they are.
    """

    def __init__(self, step: Step, parameters: Sequence[nn.Parameter], record: Record) -> None:
        """`record` takes new memory for each recording: a forgotten one may still be in use."""
        self._step, self._parameters, self._record = step, parameters, record
        self.recording: Recording | None = None
        self._begun = self._failed = False

    def __call__(self, batch: Batch, tokens: Tensor) -> Losses:
        """As the step. Before it, no parameter may have a gradient."""
        if self._begun and not self.recording and not self._failed:
            self._try_to_record(batch, tokens)
        self._begun = True
        if self.recording and _shapes(batch) == _shapes(self.recording.batch):
            return self.recording.run(batch, tokens)
        return self.beside(lambda: self._step(dict(batch), tokens))

    def beside(self, work: Callable[[], Returned]) -> Returned:
        """What `work` returns. If the GPU has no memory for it beside the recording, the recording
        is forgotten, and the next step is recorded again.
        """
        try:
            return work()
        except torch.OutOfMemoryError:
            if not self.recording:
                raise
        self._forget_recording()
        return work()

    def _try_to_record(self, batch: Batch, tokens: Tensor) -> None:
        kept, kept_tokens = _copy(batch), tokens.clone()

        def run() -> Results:
            self._forget_gradients()
            losses = self._step(dict(kept), kept_tokens)
            return losses, [p.grad for p in self._parameters if p.grad is not None]

        try:
            replay, (losses, gradients) = self._record(run)
        except RuntimeError as error:
            self._give_up(error)
        if self._failed:
            self._forget_recording()  # not above, where the error still keeps tensors
            return
        learning = [p for p in self._parameters if p.grad is not None]
        pairs = list(zip(learning, gradients, strict=True))
        self.recording = Recording(kept, kept_tokens, replay, losses, pairs)
        self._forget_gradients()

    def _forget_recording(self) -> None:
        """Frees the recording's memory, the gradients, and what a failed attempt has kept."""
        self.recording = None
        self._forget_gradients()
        gc.collect()
        torch.cuda.empty_cache()

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def _give_up(self, error: RuntimeError) -> None:
        """Says why nothing is recorded. Training goes on without a graph."""
        self._failed = True
        reason = first_line(error)
        if isinstance(error, torch.OutOfMemoryError):
            reason = "too little GPU memory; more recomputed layers (train.checkpointing) or a "
            reason += "smaller train.batch_size need less"
        sys.stderr.write(
            f"The training step cannot be recorded ({reason}). Training goes on without a CUDA "
            "graph, slower.\n"
        )


def _copy(batch: Batch) -> Batch:
    return {n: part.clone() if isinstance(part, Tensor) else part for n, part in batch.items()}


def _shapes(batch: Batch) -> dict[str, Any]:
    """What two batches must have alike: the shapes of tensors, and everything else."""
    return {n: part.shape if isinstance(part, Tensor) else part for n, part in batch.items()}
