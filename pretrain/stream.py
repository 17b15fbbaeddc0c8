"""Renders frames in many processes and stores them on the training device."""

import itertools
import logging
import mmap
import multiprocessing as mp
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretrain.render import render

WIDTH, HEIGHT = 640, 480
MOST_PEOPLE = 128
BLOCK = 8  # frames per transfer
SLOTS = 32  # queued blocks per process; memory is allocated on use
MOST_FAILURES = 0.02  # share of all blocks
_FRAME_BYTES = HEIGHT * WIDTH * 3
_ROW_BYTES = MOST_PEOPLE * 3 * 4

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Block:
    """Frames (n, H, W, 3) and rows (n, people, 3) of x, y and 1 for a person, else 0."""

    images: NDArray[np.uint8]
    rows: NDArray[np.float32]
    validation: bool


def render_row(seed: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Returns one frame, and a row (x, y, 1) per person, padded with zeros."""
    frame = render(seed, (WIDTH, HEIGHT))
    rows = np.zeros((MOST_PEOPLE, 3), np.float32)
    rows[: frame.count, :2] = frame.heads
    rows[: frame.count, 2] = 1
    return frame.image, rows


def _render_into(block: Block, seed: int) -> None:
    for i in range(BLOCK):
        block.images[i], block.rows[i] = render_row(seed + i)


class FrameStream:
    """Processes that render the validation seeds, then seeds from `first_seed` until closed."""

    def __init__(self, processes: int, validation: int, first_seed: int):
        self._validation, self._first_seed = validation, first_seed
        self._failed, self._finished = 0, 0
        # Forked processes share anonymous memory: /dev/shm may be small, and pickling is slow.
        context = mp.get_context("fork")
        self._ready = context.SimpleQueue()
        self._free = [context.Semaphore(SLOTS) for _ in range(processes)]
        self._memory = mmap.mmap(-1, processes * SLOTS * BLOCK * (_FRAME_BYTES + _ROW_BYTES))
        self._processes = [
            context.Process(target=self._work, args=(w, processes), daemon=True)
            for w in range(processes)
        ]
        for process in self._processes:
            process.start()

    def _slot(self, worker: int, slot: int, validation: bool = False) -> Block:
        size = BLOCK * (_FRAME_BYTES + _ROW_BYTES)
        raw = np.frombuffer(self._memory, np.uint8, size, (worker * SLOTS + slot) * size)
        images, rows = raw[: BLOCK * _FRAME_BYTES], raw[BLOCK * _FRAME_BYTES :]
        return Block(
            images.reshape(BLOCK, HEIGHT, WIDTH, 3),
            rows.view(np.float32).reshape(BLOCK, MOST_PEOPLE, 3),
            validation,
        )

    def _seed(self, block: int) -> int:
        """Seeds below `validation` are validation frames and are never used for training."""
        first = block * BLOCK
        return first if first < self._validation else self._first_seed + first

    def _work(self, worker: int, processes: int) -> None:
        os.nice(5)  # the training loop has priority
        for number in itertools.count():
            self._free[worker].acquire()
            seed = self._seed(number * processes + worker)
            try:
                _render_into(self._slot(worker, number % SLOTS), seed)
                self._ready.put((worker, number % SLOTS, seed, ""))
            except Exception:
                self._ready.put((worker, number % SLOTS, seed, traceback.format_exc()))

    def blocks(self, limit: int) -> Iterator[Block]:
        """Yields up to `limit` finished blocks without waiting; each is valid until the next."""
        for _ in range(limit):
            if self._ready.empty():
                return
            worker, slot, seed, error = self._ready.get()
            self._finished += 1
            if error:
                self._note_failure(seed, error)
            else:
                yield self._slot(worker, slot, seed < self._validation)
            self._free[worker].release()

    def _note_failure(self, seed: int, error: str) -> None:
        self._failed += 1
        log.error("block of seeds from %d left out, rendering failed:\n%s", seed, error)
        if self._failed > 10 + MOST_FAILURES * self._finished:
            raise RuntimeError(f"{self._failed} of {self._finished} blocks could not be rendered")

    def close(self) -> None:
        for process in self._processes:
            process.terminate()


class Store:
    """A ring buffer of frames on the device."""

    def __init__(self, capacity: int, device: torch.device):
        self.images = torch.empty(capacity, HEIGHT, WIDTH, 3, dtype=torch.uint8, device=device)
        self.rows = torch.zeros(capacity, MOST_PEOPLE, 3, device=device)
        self.added = 0
        self._filled = torch.zeros((), device=device)

    def __len__(self) -> int:
        return min(self.added, len(self.images))

    def add(self, block: Block) -> None:
        n = min(len(block.images), len(self.images))
        at = self.added % len(self.images)
        n = min(n, len(self.images) - at)
        self.images[at : at + n].copy_(torch.from_numpy(block.images[:n]))
        self.rows[at : at + n].copy_(torch.from_numpy(block.rows[:n]))
        self.added += n

    def publish(self) -> None:
        """Makes added frames visible to `sample`, once their copy on a second stream is done."""
        self._filled.fill_(float(len(self)))

    def sample(self, frames: int) -> tuple[Tensor, Tensor]:
        """Returns random frames and their rows. Reads no host value: a CUDA graph can record it."""
        share = torch.rand(frames, device=self.images.device, dtype=torch.float64)
        picked = (share * self._filled).long()
        return self.images[picked], self.rows[picked]
