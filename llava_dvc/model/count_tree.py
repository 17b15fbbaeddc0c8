"""The written numbers as a tree of tokens. One pass behind a prompt scores all of them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import LlavaProcessor

from llava_dvc.conversation import format_count
from llava_dvc.model.chat_template import answer_ids


@dataclass(frozen=True)
class CountTree:
    """The written numbers 0..max_count as a token tree.

    A node is a prefix after which several tokens are possible. Node 0 is the end of the prompt.
    Every other node is one token after its parent, and the beginning of a longer number. A number
    that no other number begins with must end: it needs no node.
    """

    tokens: Tensor
    """Token of nodes 1.., parents before children."""
    lineage: Tensor
    """`(nodes, nodes)`: true where the column's node is an ancestor of the row's, or the same."""
    at: Tensor
    """Node of every choice that leads to a number."""
    chosen: Tensor
    """Token of every choice, the end token included."""
    paths: Tensor
    """`(max_count + 1, longest)`: the choices that write each count, as positions in `at`. Padded
    with the number of choices.
    """
    end: int
    """The token that ends an answer."""

    @classmethod
    def build(cls, processor: LlavaProcessor, prompt: str, max_count: int) -> "CountTree":
        """The tree of any tokenizer, one that writes digit by digit or whole numbers."""
        eos = processor.tokenizer.eos_token
        answers = [
            tuple(answer_ids(processor, prompt, f"{prompt}{format_count(count)}{eos}"))
            for count in range(max_count + 1)
        ]
        inner = sorted({ids[:n] for ids in answers for n in range(len(ids) - 1)}, key=len)
        nodes = {prefix: node for node, prefix in enumerate(inner)}
        ways = [[(nodes[ids[:n]], ids[n]) for n in range(len(ids)) if ids[:n] in nodes]
                for ids in answers]  # fmt: skip
        order = {step: place for place, step in enumerate(sorted({s for way in ways for s in way}))}
        lineage = torch.eye(len(inner), dtype=torch.bool)
        for prefix in inner[1:]:
            lineage[nodes[prefix]] |= lineage[nodes[prefix[:-1]]]
        at, chosen = torch.tensor(list(order)).T
        longest = max(map(len, ways))
        paths = [
            [order[step] for step in way] + [len(order)] * (longest - len(way)) for way in ways
        ]
        tokens = torch.tensor([prefix[-1] for prefix in inner[1:]], dtype=torch.long)
        return cls(tokens, lineage, at, chosen, torch.tensor(paths), answers[0][-1])

    def to(self, device: torch.device) -> "CountTree":
        moved: dict[str, Any] = {
            name: value.to(device)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def last_choices(self) -> Tensor:
        """The last choice that writes each count, `(max_count + 1,)`, as positions in `at`."""
        return self.paths.where(self.paths < len(self.at), -1).amax(dim=1)

    def append_to(
        self, inputs: dict[str, Any], starts: Tensor, dtype: torch.dtype, spare: int = 0
    ) -> dict[str, Any]:
        """Returns the batch with the tree's nodes behind every row.

        A node sees the row's prompt, its ancestors and itself. The prompt ends where the row's
        answer `starts`. Adds `spare` tokens at the end that nothing sees.
        """
        ids = inputs["input_ids"]
        rows, length = ids.shape
        nodes = pad(self.tokens, (0, spare), value=self.end).expand(rows, -1)
        lineage = pad(self.lineage[1:, 1:], (0, spare, 0, spare))
        everything = torch.arange(length, device=ids.device)
        prompts = (everything < starts[:, None])[:, None].expand(-1, len(lineage), -1)
        seen = torch.cat([prompts, lineage.expand(rows, -1, -1)], dim=2)
        depth = lineage.sum(dim=1) - 1  # the first token after the prompt has depth 0
        places = torch.cat([everything.expand(rows, -1), starts[:, None] + depth], dim=1)
        return inputs | {
            "input_ids": torch.cat([ids, nodes], dim=1),
            "attention_mask": additive_mask(seen[:, None], dtype) if len(lineage) else None,
            "position_ids": places,
            "logits_to_keep": inputs["logits_to_keep"] + len(lineage),
        }

    def log_probabilities(self, nodes: Tensor) -> Tensor:
        """Log P(count), `(frames, max_count + 1)`, of constrained decoding.

        `nodes` are log-probabilities of the next token, `(frames, nodes, vocabulary)`. At every
        node the mass is shared among the tokens that lead to an allowed number, the end included.

        The joint distribution, P(all tokens, then the end) renormalised over whole answers, would
        need a node for every number: a sixth more work on the 7B model. It would also make some
        numbers less likely than others when the model wants to write on ("31 people"). A tuned
        model writes nothing else: for it the two are the same.
        """
        scores = nodes[:, self.at, self.chosen]
        at = self.at.expand(len(scores), -1)
        lowest = scores.new_full((len(scores), nodes.shape[1]), -torch.inf)
        top = lowest.scatter_reduce(1, at, scores.detach(), "amax")
        mass = torch.zeros_like(top).scatter_add(1, at, (scores - top[:, self.at]).exp())
        steps = scores - (top + mass.log())[:, self.at]
        return self._along_paths(steps, 0.0).sum(dim=-1).log_softmax(dim=-1)

    def greedy(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """The count that the likeliest tokens write, and whether they write one. Both `(frames,)`.

        Does not check the end token of a number that no other number begins with.
        """
        taken = nodes.argmax(dim=-1)[:, self.at] == self.chosen
        written = self._along_paths(taken, True).all(dim=-1)
        return written.int().argmax(dim=1), written.any(dim=1)

    def _along_paths(self, steps: Tensor, filler: Any) -> Tensor:
        """Values of the choices that write each count, `(frames, max_count + 1, longest)`.

        `steps` are the values of all choices, `(frames, choices)`.
        """
        filled = torch.cat([steps, steps.new_full((len(steps), 1), filler)], dim=1)
        return filled[:, self.paths]


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token may attend, the least number elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(
        ~seen, torch.finfo(dtype).min
    )
