"""Records what a function does on the GPU as a CUDA graph, to run it again.

Python needs much longer to launch thousands of kernels than the GPU needs to compute them. A graph
launches all of them at once. It reads and writes the same memory in every run.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Results = TypeVar("Results")
Replay = Callable[[], None]

WARM_UP = 2
"""Runs before a recording: in the first, libraries prepare themselves and layers are compiled."""


class CudaRecorder:
    """Records CUDA graphs. They share their memory, so only one may run at a time."""

    def __init__(self) -> None:
        self._pool: Any = torch.cuda.graph_pool_handle()
        # One for all: memory that was used on another stream cannot be used again.
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def __call__(self, run: Callable[[], Results]) -> tuple[Replay, Results]:
        """Returns what repeats `run`, and its results, which every repetition overwrites.

        Raises RuntimeError if `run` waits for the GPU, or if there is too little memory.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        failures: list[Exception] = []
        try:
            # "thread_local": another thread may pin memory meanwhile.
            with torch.cuda.graph(
                graph, self._pool, self._stream, capture_error_mode="thread_local"
            ):
                results = _noted(run, failures)
        except RuntimeError as error:  # the end of a recording hides what broke it
            # `failures` would keep the error, and the error would keep memory.
            raise (failures.pop() if failures else error) from None
        return graph.replay, results


def _noted(run: Callable[[], Results], failures: list[Exception]) -> Results:
    try:
        return run()
    except Exception as error:
        failures.append(error)
        raise
