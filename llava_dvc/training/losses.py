"""What `train.loss` adds to cross-entropy, so that a wrong number costs by how wrong it is.

Cross-entropy takes every wrong number for equally wrong, and a slip in the tens for one in the
units. Both kinds here look at the whole distribution over counts, which takes the tree of written
numbers into the training pass: the answer's own tokens never visit a neighbour's branch.

- `soft`: cross-entropy against a Gaussian around the label (label distribution learning for crowds,
  Zhang, Wang and Chen 2015; DeQA-Score, arXiv 2501.11561).
- `expected`: squared error of the expected count (RAFT, ICLR 2025), in units of the same width.
"""

import torch
from torch import Tensor

from llava_dvc.model.count_tree import CountTree

WIDTH = 1.5  # people: standard deviation of a label


def of_counts(logits: Tensor, ends: Tensor, tree: CountTree, counts: Tensor, kind: str) -> Tensor:
    """The sum over all rows of how far P(count) is from `counts`.

    `logits` are those kept, the nodes' last; `ends` are the positions in them of the prompts' ends.
    """
    rows = torch.arange(len(logits), device=logits.device)
    nodes = logits[:, logits.shape[1] - len(tree.tokens) :]
    nodes = torch.cat([logits[rows, ends][:, None], nodes], dim=1).float().log_softmax(dim=-1)
    found = tree.log_probabilities(nodes)
    people = torch.arange(found.shape[1], device=found.device)
    if kind == "soft":
        return -(label_distribution(counts, found.shape[1]) * found).sum()
    return ((found.exp() @ people.float() - counts) / WIDTH).square().sum() / 2


def label_distribution(counts: Tensor, numbers: int) -> Tensor:
    """A Gaussian of WIDTH around each of `counts` over 0..`numbers` - 1; rows sum to 1."""
    distance = torch.arange(numbers, device=counts.device) - counts[:, None]
    return (-0.5 * (distance / WIDTH).square()).softmax(dim=-1)
