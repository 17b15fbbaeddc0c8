"""Records a training step as a CUDA graph. Without it kernel launches limit small layers."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 4

log = logging.getLogger(__name__)


class Replay:
    """Calls `step`, from a recorded graph if possible. `step` must reuse the same tensors."""

    def __init__(self, step: Callable[[], Tensor], device: torch.device):
        self._step, self._graph = step, None
        if device.type == "cuda":
            self._warm_up()
            self._record()

    def _warm_up(self) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph):
                self._result = self._step()
        except RuntimeError:
            log.exception("this step cannot be recorded; it runs launch by launch, slower")
            return
        self._graph = graph

    def __call__(self) -> Tensor:
        if self._graph is None:
            return self._step()
        self._graph.replay()
        return self._result
