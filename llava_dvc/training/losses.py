"""What `train.loss` adds to cross-entropy: a wrong number costs by how wrong it is.

Cross-entropy treats every wrong number alike, and an error in the tens like one in the units. Both
kinds here use the whole distribution over counts. They need the tree of written numbers in the
training pass: the answer's tokens score only one branch of the tree.

- `soft`: cross-entropy against a Gaussian around the label (label distribution learning for crowds,
  Zhang, Wang and Chen 2015; DeQA-Score, arXiv 2501.11561).
- `expected`: squared error of the expected count (RAFT, ICLR 2025), in units of the same width.
"""

import torch
from torch import Tensor

from llava_dvc.model.count_tree import CountTree

WIDTH = 1.5  # people: standard deviation of a label


def count_loss(logits: Tensor, ends: Tensor, tree: CountTree, counts: Tensor, kind: str) -> Tensor:
    """The `kind` of loss between P(count) and `counts`, summed over all rows.

    `logits` are `(rows, kept positions, vocabulary)`, the tree's nodes last. `ends` are the
    prompts' ends among these positions, `(rows,)`. `counts` are `(rows,)`.
    """
    rows = torch.arange(len(logits), device=logits.device)
    nodes = logits[:, logits.shape[1] - len(tree.tokens) :]
    nodes = torch.cat([logits[rows, ends][:, None], nodes], dim=1).float().log_softmax(dim=-1)
    log_p = tree.log_probabilities(nodes)
    people = torch.arange(log_p.shape[1], device=log_p.device)
    if kind == "soft":
        return -(label_distribution(counts, log_p.shape[1]) * log_p).sum()
    return ((log_p.exp() @ people.float() - counts) / WIDTH).square().sum() / 2


def label_distribution(counts: Tensor, numbers: int) -> Tensor:
    """A Gaussian of WIDTH around each of `counts`, over 0..`numbers` - 1. Rows sum to 1."""
    distance = torch.arange(numbers, device=counts.device) - counts[:, None]
    return (-0.5 * (distance / WIDTH).square()).softmax(dim=-1)
