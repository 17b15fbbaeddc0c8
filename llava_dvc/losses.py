"""What `train.loss` adds to cross-entropy, so that a wrong number costs by how wrong it is.

Cross-entropy takes every wrong number for equally wrong, and a slip in the tens for one in the
units. Both kinds here look at the whole distribution over counts, which takes the tree of written
numbers into the training pass: the answer's own tokens never visit a neighbour's branch.

- `soft`: cross-entropy against a Gaussian around the label (label distribution learning for crowds,
  Zhang, Wang and Chen 2015; DeQA-Score, arXiv 2501.11561).
- `expected`: squared error of the expected count (RAFT, ICLR 2025), in units of the same width.
"""

from typing import Any

import torch
from torch import Tensor

from llava_dvc.counting import CountTree, additive, count_log_probabilities

WIDTH = 1.5  # people: standard deviation of a label


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
        "attention_mask": additive(seen[:, None], dtype),
        "position_ids": places,
        "logits_to_keep": inputs["logits_to_keep"] + len(lineage),
    }


def of_counts(logits: Tensor, ends: Tensor, tree: CountTree, counts: Tensor, kind: str) -> Tensor:
    """The sum over all rows of how far P(count) is from `counts`.

    `logits` are those kept, the nodes' last; `ends` are the positions in them of the prompts' ends.
    """
    rows = torch.arange(len(logits), device=logits.device)
    nodes = logits[:, logits.shape[1] - len(tree.tokens) :]
    nodes = torch.cat([logits[rows, ends][:, None], nodes], dim=1).float().log_softmax(dim=-1)
    found = count_log_probabilities(nodes, tree)
    people = torch.arange(found.shape[1], device=found.device)
    if kind == "soft":
        return -(label_distribution(counts, found.shape[1]) * found).sum()
    return ((found.exp() @ people.float() - counts) / WIDTH).square().sum() / 2


def label_distribution(counts: Tensor, numbers: int) -> Tensor:
    """A Gaussian of WIDTH around each of `counts` over 0..`numbers` - 1; rows sum to 1."""
    distance = torch.arange(numbers, device=counts.device) - counts[:, None]
    return (-0.5 * (distance / WIDTH).square()).softmax(dim=-1)
