"""The distribution over counts for a batch of frames, and how one number is read from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from llava_dvc.conversation import Messages, answer_ids, encode, render_prompt

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LONGEST_REPLY = 16  # tokens


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

    Node 0 is the prompt's end; every other node is one token after its parent.
    """

    tokens: list[int]
    """Token of nodes 1.., parents before children."""
    parents: list[int]
    """Parent of nodes 1.."""
    leaves: list[int]
    """The node at which each count 0..max_count is fully written."""
    end: int
    """The token that ends an answer."""

    @classmethod
    def build(cls, processor: LlavaProcessor, prompt: str, max_count: int) -> "CountTree":
        """Works for any tokenizer: digit by digit or whole numbers."""
        eos = processor.tokenizer.eos_token
        nodes: dict[tuple[int, ...], int] = {(): 0}
        leaves, parents, tokens, end = [], [], [], -1
        for count in range(max_count + 1):
            *written, end = answer_ids(processor, prompt, f"{prompt}{count}{eos}")
            for length in range(1, len(written) + 1):
                prefix = tuple(written[:length])
                if prefix not in nodes:
                    nodes[prefix] = len(nodes)
                    parents.append(nodes[prefix[:-1]])
                    tokens.append(prefix[-1])
            leaves.append(nodes[tuple(written)])
        return cls(tokens, parents, leaves, end)

    def ancestry(self) -> Tensor:
        """`(nodes, nodes)`, true where the column's node lies on the way to the row's, itself
        included.
        """
        lineage = torch.eye(len(self.tokens) + 1, dtype=torch.bool)
        for node, parent in enumerate(self.parents, start=1):
            lineage[node] |= lineage[parent]
        return lineage


def predict(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    frames: Sequence[Image],
    question: Messages,
    max_count: int,
    batch_size: int,
) -> Answers:
    """Ask `question` of every frame; counts above `max_count` get no probability."""
    prompt = render_prompt(processor, question)
    tree = CountTree.build(processor, prompt, max_count)
    probabilities, replies = [], []
    for start in range(0, len(frames), batch_size):
        images = frames[start : start + batch_size]
        batch = encode(processor, images, [prompt] * len(images))
        batch = {name: value.to(model.device) for name, value in batch.items()}
        scores = tree_scores(model, batch, tree)
        probabilities.append(count_probabilities(scores, tree).double().cpu().numpy())
        replies += greedy_replies(model, processor, batch, scores, tree)
    return Answers(np.concatenate(probabilities), replies)


@torch.inference_mode()
def tree_scores(model: Any, batch: dict[str, Tensor], tree: CountTree) -> Tensor:
    """Log-probabilities of the next token at every node, `(frames, nodes, vocabulary)`, from one
    pass.

    The prompt and all nodes go in as one sequence; a 4-D mask lets a node see the prompt, its
    ancestors and itself. The frames' prompts must be of one length (one question, one image size).
    """
    ids = batch["input_ids"]
    frames, length = ids.shape
    lineage = tree.ancestry().to(ids.device)
    nodes = torch.tensor(tree.tokens, device=ids.device).expand(frames, -1)
    allowed = (
        torch.ones(length + nodes.shape[1], length + nodes.shape[1], device=ids.device)
        .tril()
        .bool()
    )
    allowed[length:, length:] = lineage[1:, 1:]
    mask = torch.zeros(allowed.shape, dtype=model.dtype, device=ids.device)
    mask = mask.masked_fill(~allowed, torch.finfo(model.dtype).min).expand(frames, 1, -1, -1)
    depth = lineage.sum(dim=1)[1:] - 2  # the first token after the prompt has depth 0
    positions = torch.cat([torch.arange(length, device=ids.device), length + depth])
    output = model(
        input_ids=torch.cat([ids, nodes], dim=1),
        pixel_values=batch["pixel_values"],
        attention_mask=mask,
        position_ids=positions.expand(frames, -1),
        logits_to_keep=len(tree.tokens) + 1,
        use_cache=False,
    )
    scores: Tensor = output.logits.float().log_softmax(dim=-1)
    return scores


def count_probabilities(scores: Tensor, tree: CountTree) -> Tensor:
    """P(count) `(frames, max_count + 1)` from the nodes' log-probabilities.

    The joint distribution: P(all the number's tokens, then the end), renormalised over the allowed
    numbers. That is the model's own belief given that it answers with an allowed number, and 3
    competes with 31 and 310 as whole answers; renormalising at each node instead would be a little
    cheaper, but would move the mass of impossible continuations to numbers that merely start alike.
    """
    parents = torch.tensor(tree.parents, device=scores.device)
    tokens = torch.tensor(tree.tokens, device=scores.device)
    steps = scores[:, parents, tokens]
    lineage = tree.ancestry().to(scores.device)[tree.leaves, 1:]
    written = steps @ lineage.to(steps.dtype).T
    return (written + scores[:, tree.leaves, tree.end]).softmax(dim=-1)


def greedy_replies(
    model: Any, processor: LlavaProcessor, batch: dict[str, Tensor], scores: Tensor, tree: CountTree
) -> list[str]:
    """What greedy decoding writes.

    Followed through the tree's scores for free; only a frame whose best token leaves the tree is
    generated.
    """
    best = scores.argmax(dim=-1).tolist()
    children = {
        (parent, token): node
        for node, (parent, token) in enumerate(zip(tree.parents, tree.tokens, strict=True), start=1)
    }
    counts = {leaf: str(count) for count, leaf in enumerate(tree.leaves)}
    replies: list[str | None] = []
    for row in best:
        node: int | None = 0
        while node is not None and row[node] != tree.end:
            node = children.get((node, row[node]))
        replies.append(counts.get(node) if node is not None else None)
    strays = [index for index, reply in enumerate(replies) if reply is None]
    for index, text in zip(strays, generate(model, processor, batch, strays), strict=True):
        replies[index] = text
    return [reply or "" for reply in replies]


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
    return max(9, 2 * max(counts))
