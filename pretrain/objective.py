"""The objective: P(count) over the digit tree, and people per patch as an auxiliary task."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

LARGEST = 99  # two digits; pretraining frames hold fewer people
CELLS = 4  # cells along a side of a patch, for the density head
PAIRS = 4  # two-digit prefixes per prompt at which the answer must end


@dataclass(frozen=True)
class Prompt:
    """One question and its digit tree, in a fixed length that the whole batch shares.

    `mask` (1, 1, length, length) is True where a token may attend. Ten nodes for the first digits
    0 to 9 follow the question; the pairs follow their first digits. `tree` has the positions of
    the logits that are read: the question's end, the ten nodes, the pairs.
    """

    ids: Tensor
    mask: Tensor
    positions: Tensor
    tree: Tensor

    def to(self, device: torch.device) -> "Prompt":
        return Prompt(*(t.to(device) for t in (self.ids, self.mask, self.positions, self.tree)))

    def copy_(self, other: "Prompt") -> None:
        self.ids.copy_(other.ids)
        self.mask.copy_(other.mask)
        self.positions.copy_(other.positions)
        self.tree.copy_(other.tree)


class Prompts:
    """Builds prompts of one length: the longest question, rounded up for the attention kernel."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, patches: int, questions: Sequence[str]):
        self.tokenizer = tokenizer
        self.patches = patches
        self.digits = torch.tensor([tokenizer.convert_tokens_to_ids(str(d)) for d in range(10)])
        self.before_image = self._ids(questions[0])[1]
        longest = max(len(self._ids(q)[0]) for q in questions)
        self.length = -(-(longest + 10 + PAIRS) // 8) * 8

    def _ids(self, question: str) -> tuple[list[int], int]:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}],
            tokenize=True,
            add_generation_prompt=True,
            return_dict=False,
        )
        at = ids.index(self.tokenizer.convert_tokens_to_ids("<image>"))
        return ids[:at] + [ids[at]] * self.patches + ids[at + 1 :], at

    def build(self, question: str, rng: random.Random) -> Prompt:
        """Draws new pairs for each prompt, to teach that the answer ends after any two digits."""
        ids, _ = self._ids(question)
        end = len(ids)
        pairs = [(rng.randrange(1, 10), rng.randrange(10)) for _ in range(PAIRS)]
        nodes = self.digits.tolist() + [int(self.digits[second]) for _, second in pairs]
        ids += nodes + [self.tokenizer.pad_token_id] * (self.length - end - len(nodes))
        positions = torch.arange(self.length)
        positions[end : end + 10] = end
        positions[end + 10 :] = end + 1
        mask = _tree_mask(self.length, end, [first for first, _ in pairs])
        tree = torch.arange(end - 1, end + 10 + PAIRS)
        return Prompt(torch.tensor(ids), mask, positions[None], tree)


def _tree_mask(length: int, end: int, parents: Sequence[int]) -> Tensor:
    """Returns a mask: causal up to `end`; each node sees the prompt, its parent and itself."""
    mask = torch.ones(length, length, dtype=torch.bool).tril()
    mask[end:, end:] = torch.eye(length - end, dtype=torch.bool)
    for node, parent in enumerate(parents, end + 10):
        mask[node, end + parent] = True
    return mask[None, None]


class Learner(nn.Module):
    """The LLaVA, and for training a head that predicts people per patch and per cell."""

    def __init__(self, llava: LlavaForConditionalGeneration, before_image: int):
        super().__init__()
        self.llava = llava
        self.before_image = before_image
        self.density = nn.Linear(llava.config.text_config.hidden_size, 1 + CELLS**2)
        patches = llava.config.image_seq_length
        expected = torch.tensor([12.0 / patches] + [12.0 / patches / CELLS**2] * CELLS**2)
        self.density.bias.data.copy_(expected.expm1().log())

    def features(self, pixels: Tensor, at: Tensor) -> Tensor:
        """Returns projected patches; `at` is the place of each token on the full picture's grid.

        The tower's last block is skipped, because LLaVA never reads it.
        """
        tower = self.llava.model.vision_tower
        patches = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = tower.embeddings.class_embedding.to(patches.dtype).expand(len(pixels), 1, -1)
        hidden = torch.cat([first, patches], dim=1) + tower.embeddings.position_embedding(at)
        hidden = tower.pre_layrnorm(hidden)
        for layer in tower.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        projected: Tensor = self.llava.model.multi_modal_projector(hidden[:, 1:])
        return projected

    def look(self, patches: Tensor) -> Tensor:
        """Returns people per patch and per cell before softplus, (frames, patches, 1 + cells)."""
        return self.density(patches).float()

    def answer(self, patches: Tensor, prompt: Prompt) -> Tensor:
        """Returns the logits of the digit tree, (frames, 11 + pairs, vocabulary)."""
        text = self.llava.model.language_model.embed_tokens(prompt.ids)
        text = text.to(patches.dtype).expand(len(patches), -1, -1)
        start, stop = self.before_image, self.before_image + patches.shape[1]
        hidden = self.llava.model.language_model(
            inputs_embeds=torch.cat([text[:, :start], patches, text[:, stop:]], dim=1),
            attention_mask=prompt.mask,
            position_ids=prompt.positions,
            use_cache=False,
        ).last_hidden_state
        logits: Tensor = self.llava.lm_head(hidden.index_select(1, prompt.tree))
        return logits


def tokens_at(grid: int, side: int, top: int, left: int) -> Tensor:
    """Returns the grid places of the class token and of a crop of side * side patches."""
    rows = (torch.arange(side) + top)[:, None] * grid
    places = rows + torch.arange(side) + left + 1
    return torch.cat([torch.zeros(1, dtype=torch.long), places.flatten()])


def log_counts(logits: Tensor, digits: Tensor, eos: int) -> Tensor:
    """Returns log P(count) for 0 to 99 over the whole vocabulary, from the 11 tree positions."""
    logp = logits[:, :11].float().log_softmax(-1)
    first = logp[:, 0, digits]
    second = logp[:, 1:, digits]
    ends = logp[:, 1:, eos]
    pairs = first[:, 1:, None] + second[:, 1:]
    return torch.cat([first + ends, pairs.flatten(1)], dim=1)


def median_count(logp: Tensor, largest: int = 80) -> Tensor:
    """Returns the median of P(count) over 0 to `largest`: it minimises the absolute error."""
    total = logp[:, : largest + 1].softmax(-1).cumsum(-1)
    return (total < 0.5).sum(-1)


def soft_counts(counts: Tensor, width: float) -> Tensor:
    """Returns a soft target: a bell curve around the count, wider for larger counts."""
    sigma = (0.3 + width * counts)[:, None]
    steps = torch.arange(LARGEST + 1, device=counts.device)
    return (-0.5 * ((steps - counts[:, None]) / sigma) ** 2).softmax(-1)


def answer_loss(logits: Tensor, counts: Tensor, width: float, ids: tuple[Tensor, int]) -> Tensor:
    """Returns the cross-entropy of the soft target, plus that of EOS after two digits."""
    digits, eos = ids
    logp = log_counts(logits, digits, eos)
    ends = logits[:, 11:].float().log_softmax(-1)[..., eos]
    soft = -(soft_counts(counts, width) * logp).sum(-1).mean()
    return soft - 0.1 * ends.mean()


def density_loss(raw: Tensor, target: Tensor) -> Tensor:
    """Returns the Poisson loss per cell and per patch, plus the error of the sum over patches."""
    rate = F.softplus(raw)
    patch = target.sum(-1)
    people = patch.sum(-1)
    cells = _poisson(rate[..., 1:], target).sum((1, 2))
    patches = _poisson(rate[..., 0], patch).sum(1)
    total = (rate[..., 0].sum(1) - people).abs() / (1.0 + people).sqrt()
    return cells.mean() / 32 + patches.mean() / 16 + 0.3 * total.mean()


def _poisson(rate: Tensor, target: Tensor) -> Tensor:
    return rate - target * (rate + 1e-6).log()
