"""Counts with CUDA graphs: the work on a batch is recorded once, and then replayed.

A graph has fixed shapes, so batches are padded to a few sizes.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from llava_dvc.evaluation.merged_weights import bytes_to_merge, merge_and_compile
from llava_dvc.load_errors import first_line
from llava_dvc.model.counting import Answered, CountPredictor
from llava_dvc.model.cuda_recorder import CudaRecorder, Replay
from llava_dvc.model.encoder import Batch
from llava_dvc.model.model_patches import free_bytes, trust_image_tokens

Record = Callable[[Callable[[], Answered]], tuple[Replay, Answered]]
"""As CudaRecorder's."""

MAX_SIZE = 32
"""Larger batches are padded to multiples of it."""
COMPILED_SHAPES = 16
"""Each size has two: the prompts, and the last token of the replies."""
FRAME_SHARE = 2
"""Memory that counting a frame takes, by the keys and values of its layers. On 7B in 16 bits,
42 GiB were measured for 32 frames, 2.1 times as much.
"""


class RecordedSizes:
    """Runs a step on batches that are padded to few sizes. Each shape is recorded at its first use.

    The results of a row do not depend on the other rows.
    """

    def __init__(self, step: Callable[[Batch], Answered], record: Record) -> None:
        self._step, self._record = step, record
        self.recorded: dict[tuple[int, ...], tuple[Batch, Replay, Answered]] = {}
        """By the shape of `input_ids`: the inputs that a replay reads, the replay, its results."""
        self._failed = False
        self._compiles = True

    def __call__(self, batch: Batch) -> Answered:
        rows = len(batch["input_ids"])
        logs, counts, ended = self._run(pad_rows(batch, padded_size(rows)))
        return logs[:rows], counts[:rows], ended[:rows]

    def _run(self, batch: Batch) -> Answered:
        shape = tuple(batch["input_ids"].shape)
        if shape not in self.recorded and not self._failed:
            try:
                self.recorded[shape] = self._record_shape(batch)
            except RuntimeError as error:
                self._give_up(error)
        if self._failed:
            return self._compiled_step(batch)
        inputs, replay, (logs, counts, ended) = self.recorded[shape]
        for name, tensor in inputs.items():
            tensor.copy_(batch[name])
        replay()
        return logs.clone(), counts.clone(), ended.clone()

    def _record_shape(self, batch: Batch) -> tuple[Batch, Replay, Answered]:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        try:
            return inputs, *self._record(lambda: self._compiled_step(inputs))
        except TorchDynamoException as error:
            self._stop_compiling(error)
            return inputs, *self._record(lambda: self._compiled_step(inputs))

    def _compiled_step(self, batch: Batch) -> Answered:
        """The step. Compiles the layers for each new shape, if they are to be compiled."""
        limits: Any = torch._dynamo.config.patch(recompile_limit=COMPILED_SHAPES)
        stance = torch.compiler.set_stance("default" if self._compiles else "force_eager")
        with stance, limits:
            return self._step(batch)

    def _stop_compiling(self, error: Exception) -> None:
        self._compiles = False
        reason = first_line(getattr(error, "inner_exception", error))
        sys.stderr.write(
            f"The layers cannot be compiled ({reason}). Counting goes on without, slower.\n"
        )

    def _give_up(self, error: RuntimeError) -> None:
        """Says why nothing is recorded. Counting goes on without graphs."""
        self._failed = True
        self.recorded.clear()
        sys.stderr.write(
            f"CUDA graphs cannot be recorded ({first_line(error)}). Counting goes on without "
            "them, slower.\n"
        )


def count_with_graphs(predictor: CountPredictor, batch_size: int) -> None:
    """Makes `predictor` count fast on its GPU: merges and compiles the layers, and records CUDA
    graphs.

    The model cannot be trained or saved afterwards. If the 16-bit weights and a batch do not fit
    into memory, the layers stay as they are, and one line says so.
    """
    model = predictor.model
    trust_image_tokens(model)
    frames = 1.5 * batch_size  # of a recording, and of the warm-up for the next size
    needed = bytes_to_merge(model) + frames * frame_bytes(model)
    free = free_bytes(model.device)
    if needed <= free:
        merge_and_compile(model)
    else:
        sys.stderr.write(
            f"Counting with merged layers needs {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} "
            "GiB are free. Counting goes on with the layers as they are, slower.\n"
        )
    predictor.step = RecordedSizes(predictor.answer, CudaRecorder())


def frame_bytes(model: Any) -> int:
    """Memory that counting one frame takes, roughly."""
    config = model.config
    text, vision = config.text_config, config.vision_config
    tokens = (vision.image_size // vision.patch_size) ** 2
    kept = 4 * text.hidden_size * text.num_hidden_layers * model.dtype.itemsize
    return int(FRAME_SHARE * tokens * kept)


def padded_size(rows: int) -> int:
    """The number of rows that a batch of `rows` is padded to."""
    return min(1 << (rows - 1).bit_length(), -(-rows // MAX_SIZE) * MAX_SIZE)


def padded_sizes(batch_size: int) -> list[int]:
    """All sizes that batches of up to `batch_size` are padded to, the largest first."""
    return sorted({padded_size(rows) for rows in range(1, batch_size + 1)}, reverse=True)


def pad_rows(batch: Batch, rows: int) -> Batch:
    """Returns the batch with its last row repeated until it has `rows`."""

    def pad(tensor: Tensor) -> Tensor:
        missing = rows - len(tensor)
        return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])

    return {name: pad(tensor) for name, tensor in batch.items()}
