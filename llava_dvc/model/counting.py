"""The distribution over counts for a batch of frames, and how one number is read from it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from math import gcd
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Subset
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc.conversation import Messages, format_count
from llava_dvc.model.chat_template import Batch, encode, render_prompt
from llava_dvc.model.count_tree import CountTree, additive
from llava_dvc.model.padding import Size, one_size

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LONGEST_REPLY = 16  # tokens
DECODERS = 8  # processes
PIECE = 4  # frames that one of them works on at a time
TAIL = 0.1  # share of the mass below an interval, and above it


@dataclass(frozen=True)
class Answers:
    """What the model says of some frames."""

    probabilities: Floats
    """P(count), shape `(frames, max_count + 1)`; rows sum to 1."""
    replies: list[str]
    """The greedy free text of each frame."""


class Kept:
    """Keys and values of a batch's sequences, layer by layer. The one token that follows takes the
    place of their last: transformers' caches copy everything, a fourteenth of the time.
    """

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        """As the layers call it, with what is new, `(rows, heads, tokens, width)`; returns all."""
        if layer not in self.layers:
            self.layers[layer] = key, value
        else:
            for whole, last in zip(self.layers[layer], (key, value), strict=True):
                whole[:, :, -1:] = last
        return self.layers[layer]


@dataclass(frozen=True)
class Scores:
    """One pass over prompts and tree."""

    nodes: Tensor
    """Log-probabilities of the next token at every node, `(frames, nodes, vocabulary)`."""
    kept: Kept
    """Of prompt, nodes, and a place for the token that may follow."""


def predict(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    frames: Sequence[Image],
    question: Messages,
    max_count: int,
    batch_size: int,
    stance: Literal["eager_on_recompile", "force_eager"] = "eager_on_recompile",
) -> Answers:
    """Ask `question` of every frame; counts above `max_count` get no probability.

    `stance` is the compiler's after the first batch: what was compiled for that one's shape is not
    compiled again for the last one's. Raises UserError when the border is dropped and a frame has
    another size than the first.
    """
    prompt = render_prompt(processor, question)
    tree = CountTree.build(processor, prompt, max_count).to(model.device)
    if processor.border:
        processor.border.settle(model, processor, prompt, frames[0].size)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in loader(processor, frames, prompt, batch_size, model.device):
        # A stance holds from where it is made, not from where it is entered.
        with as_trained(model), torch.compiler.set_stance(stance) if found else nullcontext():
            scores = score(model, batch, tree)
            written = reply(model, batch["input_ids"].shape[1], scores, tree)
            found.append((tree.log_probabilities(scores.nodes), *written))
    logs, numbers, ended = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
    replies = list(map(format_count, numbers.tolist()))
    strays = (~ended).nonzero().flatten().tolist()
    others: Any = Subset(frames, strays)  # type: ignore[arg-type]
    again = loader(processor, others, prompt, batch_size, model.device)
    with as_trained(model), torch.compiler.set_stance("force_eager"):  # of other shapes
        texts = [text for batch in again for text in generate(model, processor, batch)]
    for index, text in zip(strays, texts, strict=True):
        replies[index] = text
    return Answers(logs.double().softmax(dim=-1).numpy(), replies)


def as_trained(model: Any) -> torch.autocast:
    """Autocast to the model's own 16-bit format, as the Trainer has it: the adapter, kept in
    float32, would else be computed in float32, slower and with another result.
    """
    return torch.autocast(model.device.type, model.dtype, enabled=model.dtype != torch.float32)


def loader(
    processor: LlavaProcessor,
    frames: Sequence[Image],
    prompt: str,
    batch_size: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Batches of encoded frames on `device`. Beside a GPU other processes decode and resize them,
    a few at a time, so that the first batch is soon there.
    """

    def collate(images: list[Image]) -> tuple[list[Size], Batch]:
        sizes = [image.size for image in images]
        return sizes, encode(processor, images, [prompt] * len(images))

    on_gpu = device.type == "cuda"
    workers = min(DECODERS, os.cpu_count() or 1) if on_gpu and len(frames) > batch_size else 0
    piece = gcd(batch_size, PIECE) if workers else batch_size
    encoded: Any = DataLoader(
        frames,  # type: ignore[arg-type]
        piece,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=on_gpu,
    )
    pieces = iter(encoded)
    while taken := list(islice(pieces, batch_size // piece)):
        if processor.border:  # here, because an error in a worker would arrive as a traceback
            one_size([processor.border.size, *chain.from_iterable(sizes for sizes, _ in taken)])
        yield {
            name: torch.cat([batch[name].to(device, non_blocking=True) for _, batch in taken])
            for name in taken[0][1]
        }


@torch.no_grad()
def score(model: Any, batch: dict[str, Tensor], tree: CountTree) -> Scores:
    """Score the tree behind every prompt, prompts and nodes in one pass. The prompts must be of one
    length (one question, one image size).
    """
    ids, kept = batch["input_ids"], Kept()
    ends = torch.full((len(ids),), ids.shape[1], device=ids.device)
    prompts = {"input_ids": ids, "pixel_values": batch["pixel_values"], "logits_to_keep": 1}
    given = tree.behind(prompts, ends, model.dtype, spare=1)
    logits = model(**given, use_cache=True, past_key_values=kept).logits[:, :-1]
    return Scores(logits.float().log_softmax(dim=-1), kept)


@torch.no_grad()
def reply(model: Any, prompt: int, scores: Scores, tree: CountTree) -> tuple[Tensor, Tensor]:
    """The number that greedy decoding writes behind prompts of `prompt` tokens, and whether it
    writes one and ends, both `(frames,)`; nothing waits for the device.

    Followed through the tree's scores, and one token behind it, where a number that no longer one
    begins with has to end.
    """
    counts, written = tree.greedy(scores.nodes)
    last = tree.last_choices()[counts]
    node, token = tree.at[last], tree.chosen[last]
    lineage, own = tree.lineage[node], torch.ones_like(node, dtype=torch.bool)[:, None]
    seen = torch.cat([own.expand(-1, prompt), lineage[:, 1:], own], dim=1)
    output = model(
        input_ids=token[:, None],
        attention_mask=additive(seen[:, None, None], model.dtype),
        position_ids=prompt + lineage.sum(dim=1, keepdim=True) - 1,
        past_key_values=scores.kept,
        use_cache=True,
    )
    after = output.logits[:, -1].argmax(dim=-1)
    return counts, written & ((token == tree.end) | (after == tree.end))


@torch.no_grad()
def generate(model: Any, processor: LlavaProcessor, batch: dict[str, Tensor]) -> list[str]:
    """Greedy free text of every row, without special tokens."""
    ids = model.generate(**batch, max_new_tokens=LONGEST_REPLY, do_sample=False)
    new = ids[:, batch["input_ids"].shape[1] :]
    return list(processor.batch_decode(new, skip_special_tokens=True))


def quantile(probabilities: Floats, share: float) -> Counts:
    """The smallest count with at least `share` of the mass at or below it, one a frame."""
    reached = probabilities.cumsum(axis=1) >= share - 1e-9
    counts: Counts = reached.argmax(axis=1)
    return counts


def ceiling(counts: Sequence[int]) -> int:
    """The largest count considered where no evaluation has set one: twice the largest that was
    trained on.
    """
    return max(9, 2 * max(counts[:]))  # a column's rows are slow one by one
