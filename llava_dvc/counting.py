"""The distribution over counts for a batch of frames, and how one number is read from it."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import Cache, LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc.border import one_size
from llava_dvc.conversation import Batch, Messages, answer_ids, encode, render_prompt

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LONGEST_REPLY = 16  # tokens
DECODERS = 8  # processes


@dataclass(frozen=True)
class Answers:
    """What the model says of some frames."""

    probabilities: Floats
    """P(count), shape `(frames, max_count + 1)`; rows sum to 1."""
    replies: list[str]
    """The greedy free text of each frame."""


@dataclass(frozen=True)
class CountTree:
    """The written numbers 0..max_count as a token tree, so that one pass scores them all.

    Its nodes are the places where something is left to choose: node 0 is the prompt's end, every
    other node one token after its parent, and the beginning of a longer number. A number that no
    other begins with must end: it needs no node.
    """

    tokens: list[int]
    """Token of nodes 1.., parents before children."""
    parents: list[int]
    """Parent of nodes 1.."""
    choices: list[tuple[int, int]]
    """(node, token) of every choice that leads to a number, the end token included."""
    paths: list[list[int]]
    """The choices that write each count 0..max_count, as positions in `choices`."""
    children: dict[tuple[int, int], int]
    """Node that a choice leads to, of the choices after which something is left to choose."""
    end: int
    """The token that ends an answer."""

    @classmethod
    def build(cls, processor: LlavaProcessor, prompt: str, max_count: int) -> "CountTree":
        """Works for any tokenizer: digit by digit or whole numbers."""
        eos = processor.tokenizer.eos_token
        answers = [
            tuple(answer_ids(processor, prompt, f"{prompt}{count}{eos}"))
            for count in range(max_count + 1)
        ]
        inner = sorted({ids[:n] for ids in answers for n in range(len(ids) - 1)}, key=len)
        nodes = {prefix: node for node, prefix in enumerate(inner)}
        steps = [[(nodes[ids[:n]], ids[n]) for n in range(len(ids)) if ids[:n] in nodes]
                 for ids in answers]  # fmt: skip
        order = {
            choice: place for place, choice in enumerate(sorted({c for s in steps for c in s}))
        }
        return cls(
            tokens=[prefix[-1] for prefix in inner[1:]],
            parents=[nodes[prefix[:-1]] for prefix in inner[1:]],
            choices=list(order),
            paths=[[order[choice] for choice in path] for path in steps],
            children={(nodes[prefix[:-1]], prefix[-1]): nodes[prefix] for prefix in inner[1:]},
            end=answers[0][-1],
        )

    def ancestry(self) -> Tensor:
        """`(nodes, nodes)`, true where the column's node lies on the way to the row's, itself
        included.
        """
        lineage = torch.eye(len(self.tokens) + 1, dtype=torch.bool)
        for node, parent in enumerate(self.parents, start=1):
            lineage[node] |= lineage[parent]
        return lineage

    def follow(self, best: Sequence[int]) -> tuple[int, int] | None:
        """The last choice on the way of each node's `best` token, or None if it leaves the tree."""
        choice = 0, best[0]
        while choice in self.children:
            node = self.children[choice]
            choice = node, best[node]
        return choice if choice in self.choices else None


@dataclass(frozen=True)
class Scores:
    """One pass over prompts and tree."""

    nodes: Tensor
    """Log-probabilities of the next token at every node, `(frames, nodes, vocabulary)`."""
    cache: Cache
    """Keys and values of the prompts and nodes, for what may follow them."""


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
    compiled again for the last one's.
    """
    prompt = render_prompt(processor, question)
    tree = CountTree.build(processor, prompt, max_count)
    if processor.border:
        processor.border.settle(model, processor, prompt, one_size(frames))
    probabilities, replies = [], []
    compiling: AbstractContextManager[Any] = nullcontext()
    for encoded in loader(processor, frames, prompt, batch_size, model.device):
        batch = {name: value.to(model.device, non_blocking=True) for name, value in encoded.items()}
        with as_trained(model), compiling:
            scores = score(model, batch, tree)
            replies += greedy_replies(model, processor, batch, scores, tree)
        found = count_log_probabilities(scores.nodes, tree)
        probabilities.append(found.double().softmax(dim=-1).cpu().numpy())
        compiling = torch.compiler.set_stance(stance)
    return Answers(np.concatenate(probabilities), replies)


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
) -> DataLoader[Batch]:
    """Batches of encoded frames; beside a GPU other processes decode and resize them."""

    def collate(images: list[Image]) -> Batch:
        return encode(processor, images, [prompt] * len(images))

    on_gpu = device.type == "cuda"
    return DataLoader(
        frames,  # type: ignore[arg-type]
        batch_size,
        collate_fn=collate,
        num_workers=min(DECODERS, os.cpu_count() or 1) if on_gpu else 0,
        pin_memory=on_gpu,
    )


@torch.inference_mode()
def score(model: Any, batch: dict[str, Tensor], tree: CountTree) -> Scores:
    """Score the tree behind every prompt, prompts and nodes in one pass. The prompts must be of one
    length (one question, one image size).
    """
    ids = batch["input_ids"]
    ends = torch.full((len(ids),), ids.shape[1], device=ids.device)
    prompts = {"input_ids": ids, "pixel_values": batch["pixel_values"], "logits_to_keep": 1}
    output = model(**with_tree(prompts, ends, tree, model.dtype), use_cache=True)
    return Scores(output.logits.float().log_softmax(dim=-1), output.past_key_values)


def with_tree(
    inputs: dict[str, Any], starts: Tensor, tree: CountTree, dtype: torch.dtype
) -> dict[str, Any]:
    """The batch with the tree's nodes behind every row: they see the row's prompt, which ends where
    its answer `starts`, their ancestors and themselves.
    """
    ids = inputs["input_ids"]
    rows, length = ids.shape
    nodes = torch.tensor(tree.tokens, dtype=ids.dtype, device=ids.device).expand(rows, -1)
    lineage = tree.ancestry().to(ids.device)[1:, 1:]
    everything = torch.arange(length, device=ids.device)
    seen = torch.ones(length + len(lineage), length + len(lineage), device=ids.device).tril().bool()
    seen = seen.repeat(rows, 1, 1)
    seen[:, length:, :length] = (everything < starts[:, None])[:, None]
    seen[:, length:, length:] = lineage
    depth = lineage.sum(dim=1) - 1  # the first token after the prompt has depth 0
    places = torch.cat([everything.expand(rows, -1), starts[:, None] + depth], dim=1)
    return inputs | {
        "input_ids": torch.cat([ids, nodes], dim=1),
        "attention_mask": _additive(seen[:, None], dtype),
        "position_ids": places,
        "logits_to_keep": inputs["logits_to_keep"] + len(lineage),
    }


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may look, the least number elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(
        ~seen, torch.finfo(dtype).min
    )


def count_log_probabilities(nodes: Tensor, tree: CountTree) -> Tensor:
    """Log P(count) `(frames, max_count + 1)`, as constrained decoding would draw it, from the log-
    probabilities at the tree's `nodes`.

    At every node the mass is shared among the tokens that lead to an allowed number, the end
    included. The joint distribution, P(all tokens, then the end) renormalised over whole answers,
    would need a node for every number, a sixth more work on the 7B model, and would count a model's
    wish to go on ("31 people") against some numbers and not against others. For a tuned model,
    which writes nothing else, the two are the same.
    """
    device = nodes.device
    at, tokens = torch.tensor(tree.choices, device=device).T
    chosen = nodes[:, at, tokens]
    totals = [chosen[:, at == node].logsumexp(dim=1) for node in range(len(tree.tokens) + 1)]
    steps = chosen - torch.stack(totals, dim=1)[:, at]
    written = torch.zeros(len(tree.paths), len(tree.choices), device=device)
    for count, path in enumerate(tree.paths):
        written[count, path] = 1
    return (steps @ written.T).log_softmax(dim=-1)


def greedy_replies(
    model: Any, processor: LlavaProcessor, batch: dict[str, Tensor], scores: Scores, tree: CountTree
) -> list[str]:
    """What greedy decoding writes.

    Followed through the tree's scores, and one token behind it; only a frame that strays from the
    numbers is generated.
    """
    numbers = {path[-1]: str(count) for count, path in enumerate(tree.paths)}
    order = {choice: place for place, choice in enumerate(tree.choices)}
    found = [tree.follow(best) for best in scores.nodes.argmax(dim=-1).tolist()]
    replies = [numbers.get(order[choice]) if choice else None for choice in found]
    with torch.compiler.set_stance("force_eager"):  # of other shapes than the prompts
        ended = _ends(model, batch, scores, tree, found)
        replies = [reply if end else None for reply, end in zip(replies, ended, strict=True)]
        strays = [index for index, reply in enumerate(replies) if reply is None]
        for index, text in zip(strays, generate(model, processor, batch, strays), strict=True):
            replies[index] = text
    return [reply or "" for reply in replies]


@torch.inference_mode()
def _ends(
    model: Any,
    batch: dict[str, Tensor],
    scores: Scores,
    tree: CountTree,
    found: Sequence[tuple[int, int] | None],
) -> list[bool]:
    """Whether greedy decoding ends after each frame's last choice: one more token, on the cache."""
    if all(choice is None or choice[1] == tree.end for choice in found):
        return [choice is not None for choice in found]
    length = batch["input_ids"].shape[1]
    lineage = tree.ancestry()
    nodes, tokens = zip(*(choice or (0, tree.end) for choice in found), strict=True)
    own = torch.ones(len(found), 1, dtype=torch.bool)
    prompt = torch.ones(len(found), length, dtype=torch.bool)
    seen = torch.cat([prompt, lineage[list(nodes), 1:], own], dim=1)[:, None, None]
    depth = lineage[list(nodes)].sum(dim=1, keepdim=True) - 1
    output = model(
        input_ids=torch.tensor(tokens)[:, None].to(model.device),
        attention_mask=_additive(seen.to(model.device), model.dtype),
        position_ids=(length + depth).to(model.device),
        past_key_values=scores.cache,
        use_cache=True,
    )
    after = output.logits[:, -1].argmax(dim=-1).tolist()
    return [
        choice is not None and tree.end in (choice[1], best)
        for choice, best in zip(found, after, strict=True)
    ]


@torch.inference_mode()
def generate(
    model: Any, processor: LlavaProcessor, batch: dict[str, Tensor], rows: list[int]
) -> list[str]:
    """Greedy free text of the batch's `rows`, without special tokens."""
    if not rows:
        return []
    chosen = {name: value[rows] for name, value in batch.items()}
    ids = model.generate(**chosen, max_new_tokens=LONGEST_REPLY, do_sample=False)
    new = ids[:, chosen["input_ids"].shape[1] :]
    return list(processor.batch_decode(new, skip_special_tokens=True))


def parse_count(reply: str) -> int | None:
    """The number if `reply` is one, written in digits and nothing else; else None."""
    text = reply.strip()
    return int(text) if text.isascii() and text.isdigit() else None


def quantile(probabilities: Floats, share: float) -> Counts:
    """The smallest count with at least `share` of the mass at or below it, one a frame."""
    reached = probabilities.cumsum(axis=1) >= share - 1e-9
    counts: Counts = reached.argmax(axis=1)
    return counts


def expected(probabilities: Floats) -> Floats:
    """The mean count, one a frame: best for squared error."""
    return probabilities @ np.arange(probabilities.shape[1])


def decode(answers: Answers, how: str) -> Counts:
    """One whole number a frame.

    The median is best for absolute error and the mean for squared error (RAIL, arXiv 2403.04182).
    `greedy` is the number written in the reply; where there is none, the most likely count.
    """
    probabilities = answers.probabilities
    mode: Counts = probabilities.argmax(axis=1)
    match how:
        case "median":
            return quantile(probabilities, 0.5)
        case "mean":
            return np.rint(expected(probabilities)).astype(np.int64)
        case "mode":
            return mode
        case "greedy":
            parsed = [parse_count(reply) for reply in answers.replies]
            return np.array([m if p is None else p for p, m in zip(parsed, mode, strict=True)])
    raise ValueError(f"evaluate.decode is {how!r}, expected median, mean, mode or greedy")


def ceiling(counts: Sequence[int]) -> int:
    """The largest count considered where no evaluation has set one: twice the largest that was
    trained on.
    """
    return max(9, 2 * max(counts[:]))  # a column's rows are slow one by one
