"""The distribution over counts for a batch of frames."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from math import gcd, log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, new
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from llava_dvc import errors
from llava_dvc.conversation import format_count
from llava_dvc.model.count_tree import CountTree, additive_mask
from llava_dvc.model.encoder import Batch, EncodedFrame, EncodedPicture, Encoder
from llava_dvc.model.padding import DroppedPadding, Size, drop_padding, require_one_size
from llava_dvc.model.tiles import convolve, reply_of_tiles
from llava_dvc.terminal.progress import advance

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LONGEST_REPLY = 16  # tokens
WORKERS = 8  # processes that decode frames
PIECE = 4  # frames that a worker decodes at a time
FEW = 4  # batches, for which starting workers takes longer than they save


Picture = Image | EncodedPicture
"""What the model sees: a frame or a tile."""
Piece = tuple[list[Size], Batch]
"""Some encoded frames of a batch, and their sizes."""
Answered = tuple[Tensor, Tensor, Tensor]
"""Of every frame of a batch: log P(count), `(frames, max_count + 1)`, and what `reply` returns."""


@dataclass(frozen=True)
class Answers:
    """The model's answers for some frames."""

    probabilities: Floats
    """P(count), shape `(frames, max_count + 1)`. Rows sum to 1."""
    replies: list[str]
    """The text that unconstrained greedy decoding writes for each frame."""


class LastTokenCache:
    """Keys and values of a batch's sequences, layer by layer.

    The keys and values of the one extra token overwrite those of the last, spare position.
    transformers' caches would copy everything, a fourteenth of a batch's time.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """Takes new keys and values, `(rows, heads, tokens, width)`. Returns all of this layer."""
        if layer not in self.layers:
            self.layers[layer] = key, value
        else:
            for whole, last in zip(self.layers[layer], (key, value), strict=True):
                whole[:, :, -1:] = last
        return self.layers[layer]


@dataclass(frozen=True)
class Scores:
    """The result of one pass over prompts and tree."""

    nodes: Tensor
    """Log-probabilities of the next token at every node, `(frames, nodes, vocabulary)`."""
    cache: LastTokenCache
    """Keys and values of the prompt, the nodes, and one spare position."""


class CountPredictor:
    """Asks the same question about every frame. One forward pass gives P(count) of all counts."""

    def __init__(
        self,
        model: Any,
        encoder: Encoder,
        question: str,
        max_count: int,
        eager: bool = False,
        flip: bool = False,
    ) -> None:
        """Counts above `max_count` get no probability. `eager` turns compilation off: for layers
        that were compiled for the batch shape of training. With `flip`, P(count) is the mean of
        those of the frame and of its mirror image.
        """
        self.model, self.encoder, self.eager, self.flip = model, encoder, eager, flip
        self.prompt = encoder.prompt(question)
        self.tree = CountTree.build(encoder.processor, self.prompt, max_count).to(model.device)
        self._prompts: dict[DroppedPadding | None, Batch] = {}
        self.step: Callable[[Batch], Answered] = self.answer
        """Answers one batch: `answer`, or what runs it faster on a GPU."""

    def predict(self, frames: Sequence[Image], batch_size: int) -> Answers:
        """One answer per frame: the sum of those of its tiles. A batch has `batch_size` tiles.

        Raises UserError if padding is dropped and sizes differ, or if the model gives NaN.
        """
        pictures = self.encoder.pictures(frames)
        return self._of_frames(self._predict_pictures(pictures, batch_size), len(frames))

    def predict_encoded(self, frames: Sequence[EncodedFrame], batch_size: int) -> Answers:
        """As `predict`, for frames that `Encoder.encode_ahead` has encoded."""
        pictures = list(chain.from_iterable(frames))
        return self._of_frames(self._predict_pictures(pictures, batch_size), len(frames))

    def _of_frames(self, answers: Answers, frames: int) -> Answers:
        """The answers for frames, from those for their tiles."""
        number = len(answers.replies) // frames
        if number == 1:
            return answers
        each = answers.probabilities.reshape(frames, number, -1)
        starts = range(0, len(answers.replies), number)
        replies = [reply_of_tiles(answers.replies[start : start + number]) for start in starts]
        return Answers(convolve(each), replies)

    def _predict_pictures(self, frames: Sequence[Picture], batch_size: int) -> Answers:
        """One answer for each of the pictures that the model sees."""
        if self.encoder.drops_padding:
            drop_padding(self.model, self.encoder.padding(frames[0].size))
        found: list[Answered] = []
        for batch in self.batches(frames, batch_size):
            # set_stance acts when it is called, not when the block begins.
            with autocast(self.model), self._stance(first=not found):
                found.append(self.step(batch))
            advance(len(batch["input_ids"]))
        logs, numbers, ended = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        replies = list(map(format_count, numbers.tolist()))
        unended = (~ended).nonzero().flatten().tolist()
        for index, text in zip(unended, self._generate(frames, unended, batch_size), strict=True):
            replies[index] = text
        probabilities = logs.double().softmax(dim=-1).numpy()
        if np.isnan(probabilities).any():
            raise errors.answer_not_finite()
        return Answers(probabilities, replies)

    def answer(self, batch: Batch) -> Answered:
        """One pass over the batch, and one over the mirrored batch with `flip`.

        Mirrors the pixels that the vision tower gets: each frame is decoded and resized once, and
        both passes have one shape.
        """
        scores = score(self.model, batch, self.tree)
        written = reply(self.model, batch["input_ids"].shape[1], scores, self.tree)
        logs = self.tree.log_probabilities(scores.nodes)
        if self.flip:
            del scores  # the memory of its keys and values is free for the second pass
            mirrored = batch | {"pixel_values": batch["pixel_values"].flip(-1)}
            others = self.tree.log_probabilities(score(self.model, mirrored, self.tree).nodes)
            logs = torch.logaddexp(logs, others) - log(2)
        return logs, *written

    def batches(self, frames: Sequence[Picture], batch_size: int) -> Iterator[Batch]:
        """Batches of encoded frames on the model's device.

        On a GPU, worker processes decode and resize many frames, a few at a time. The first batch
        is then ready early. Threads do so for FEW batches.
        """
        device = self.model.device
        many = device.type == "cuda" and len(frames) > FEW * batch_size
        encode = self._by_workers if many else self._by_threads
        sizes: list[Size] = []
        for taken in encode(frames, batch_size):
            if self.encoder.drops_padding:  # here: a worker's error would be a traceback
                own = chain(sizes, *(size for size, _ in taken))
                sizes = [require_one_size(own, self.encoder.tiles)]
            yield {
                name: torch.cat([batch[name].to(device, non_blocking=True) for _, batch in taken])
                for name in taken[0][1]
            }

    def _by_threads(self, frames: Sequence[Picture], batch_size: int) -> Iterator[list[Piece]]:
        """Each batch as one piece. Pillow and NumPy let other threads run meanwhile."""
        on_gpu = self.model.device.type == "cuda"
        for start in range(0, len(frames), batch_size):
            places = range(start, min(start + batch_size, len(frames)))
            sizes, batch = self._collate([frames[p] for p in places], WORKERS if on_gpu else 1)
            # Pinned, so that the CPU does not wait for the GPU to copy it.
            yield [(sizes, {n: t.pin_memory() for n, t in batch.items()} if on_gpu else batch)]

    def _by_workers(self, frames: Sequence[Picture], batch_size: int) -> Iterator[list[Piece]]:
        """Each batch as pieces of up to PIECE frames, made in other processes."""
        piece = gcd(batch_size, PIECE)
        encoded: Any = DataLoader(
            frames,  # type: ignore[arg-type]
            piece,
            collate_fn=partial(self._collate, threads=1),
            num_workers=min(WORKERS, os.cpu_count() or 1),
            pin_memory=True,
        )
        pieces = iter(encoded)
        while taken := list(islice(pieces, batch_size // piece)):
            yield taken

    def _collate(self, pictures: list[Picture], threads: int) -> Piece:
        prompt = self._prompt_ids(pictures[0].size)
        rows = {n: ids.repeat(len(pictures), 1) for n, ids in prompt.items()}
        if threads == 1 or len(pictures) == 1:
            pixels = list(map(self._pixels, pictures))
        else:
            with ThreadPoolExecutor(threads) as pool:
                pixels = list(pool.map(self._pixels, pictures))
        return [each.size for each in pictures], rows | {"pixel_values": torch.cat(pixels)}

    def _pixels(self, picture: Picture) -> Tensor:
        if isinstance(picture, EncodedPicture):
            return picture.pixels
        return self.encoder.pixels([picture])

    def _prompt_ids(self, size: Size) -> Batch:
        """The tokens of the prompt. Only the border that is dropped changes them."""
        border = self.encoder.padding(size)
        if border not in self._prompts:
            encoded = self.encoder.encode([new("RGB", size)], [self.prompt])
            self._prompts[border] = {n: ids for n, ids in encoded.items() if n != "pixel_values"}
        return self._prompts[border]

    def _stance(self, first: bool) -> Any:
        """A last batch of another shape runs without compilation."""
        if self.eager:
            return torch.compiler.set_stance("force_eager")
        return nullcontext() if first else torch.compiler.set_stance("eager_on_recompile")

    def _generate(
        self, frames: Sequence[Picture], places: Sequence[int], batch_size: int
    ) -> list[str]:
        """Replies of the frames at `places`, where greedy decoding does not end after a number."""
        others: Any = Subset(frames, places)  # type: ignore[arg-type]
        batches = self.batches(others, batch_size)
        with autocast(self.model), torch.compiler.set_stance("force_eager"):  # other shapes
            return [
                text
                for batch in batches
                for text in generate(self.model, self.encoder.processor, batch)
            ]


def autocast(model: Any) -> torch.autocast:
    """Autocasts to the model's own 16-bit format, as the Trainer does. The float32 adapter would
    otherwise be computed in float32: slower, and with another result.
    """
    return torch.autocast(
        model.device.type,
        model.dtype,
        enabled=model.dtype != torch.float32,
        cache_enabled=False,  # a CUDA graph must not read weights that an earlier run has cast
    )


@torch.no_grad()
def score(model: Any, batch: dict[str, Tensor], tree: CountTree) -> Scores:
    """Appends the tree to every prompt and scores it in one forward pass.

    All prompts must have one length: one question, one frame size.
    """
    ids, cache = batch["input_ids"], LastTokenCache()
    ends = torch.full((len(ids),), ids.shape[1], device=ids.device)
    prompts = {"input_ids": ids, "pixel_values": batch["pixel_values"], "logits_to_keep": 1}
    inputs = tree.append_to(prompts, ends, model.dtype, spare=1)
    logits = model(**inputs, use_cache=True, past_key_values=cache).logits[:, :-1]
    return Scores(logits.float().log_softmax(dim=-1), cache)


@torch.no_grad()
def reply(model: Any, prompt: int, scores: Scores, tree: CountTree) -> tuple[Tensor, Tensor]:
    """The number that greedy decoding writes after prompts of `prompt` tokens, and whether it
    writes one and then ends. Both are `(frames,)`. The CPU does not wait for the GPU.

    The tree has no node after a number that begins no longer number. One extra token shows whether
    the reply ends there.
    """
    counts, written = tree.greedy(scores.nodes)
    last = tree.last_choices()[counts]
    node, token = tree.at[last], tree.chosen[last]
    lineage, own = tree.lineage[node], torch.ones_like(node, dtype=torch.bool)[:, None]
    seen = torch.cat([own.expand(-1, prompt), lineage[:, 1:], own], dim=1)
    output = model(
        input_ids=token[:, None],
        attention_mask=additive_mask(seen[:, None, None], model.dtype),
        position_ids=prompt + lineage.sum(dim=1, keepdim=True) - 1,
        past_key_values=scores.cache,
        use_cache=True,
    )
    after = output.logits[:, -1].argmax(dim=-1)
    return counts, written & ((token == tree.end) | (after == tree.end))


@torch.no_grad()
def generate(model: Any, processor: Any, batch: dict[str, Tensor]) -> list[str]:
    """Greedy free text of every row, without special tokens."""
    ids = model.generate(**batch, max_new_tokens=LONGEST_REPLY, do_sample=False)
    new = ids[:, batch["input_ids"].shape[1] :]
    return list(processor.batch_decode(new, skip_special_tokens=True))


def quantile(probabilities: Floats, share: float) -> Counts:
    """The smallest count with at least `share` of the probability at or below it, per frame."""
    reached = probabilities.cumsum(axis=1) >= share - 1e-9
    counts: Counts = reached.argmax(axis=1)
    return counts


def default_max_count(counts: Sequence[int]) -> int:
    """The `max_count` of training and of the zero-shot baseline: twice the largest label, at least
    9.
    """
    return max(9, 2 * max(counts[:]))  # [:] reads the column at once
