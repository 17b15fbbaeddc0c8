"""Question and answer as messages, as text and as tokens; the one chat template that every stage
shares.
"""

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

import torch
from datasets import Dataset
from PIL.Image import Image
from transformers import LlavaProcessor

from llava_dvc.conversation import Messages
from llava_dvc.errors import UserError
from llava_dvc.model.padding import Border

Batch = dict[str, Any]

# The checkpoint's own template emits neither BOS nor EOS, so a model tuned with it never learns to
# stop. The space before USER keeps the first word's tokens as in pretraining; the one after
# ASSISTANT: belongs to the prompt, so that the answer's tokens are the digits and EOS alone.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}"
    "{{ ' USER: ' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "{% else %}"
    "{{ ' ASSISTANT: ' }}"
    "{% generation %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{{ eos_token }}"
    "{% endgeneration %}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ ' ASSISTANT: ' }}{% endif %}"
)

IGNORED = -100  # PyTorch's cross-entropy skips labels of this value


def question_of(messages: Messages) -> Messages:
    """The user's turn alone."""
    return [message for message in messages if message["role"] == "user"]


def render(processor: LlavaProcessor, messages: Messages) -> str:
    """A whole conversation as text: BOS, question, answer, EOS."""
    return str(processor.apply_chat_template(messages))


def render_prompt(processor: LlavaProcessor, messages: Messages) -> str:
    """The question as text, up to and with the space that the answer follows."""
    return str(processor.apply_chat_template(question_of(messages), add_generation_prompt=True))


def answer_ids(processor: LlavaProcessor, prompt: str, text: str) -> list[int]:
    """Tokens of `text` that come after those of `prompt`, both tokenised whole.

    Raises UserError when the tokenizer joins the prompt's end with the answer's start: then the
    prompt at prediction would not be the one that was trained on.
    """
    tokenizer = processor.tokenizer
    before = tokenizer(prompt, add_special_tokens=False).input_ids
    whole = tokenizer(text, add_special_tokens=False).input_ids
    if whole[: len(before)] != before:
        raise UserError(
            f"backbone.name: its tokenizer joins prompt and answer in {text[-24:]!r}; "
            "choose a LLaVA-1.5-shaped checkpoint"
        )
    return list(whole[len(before) :])


def encode(
    processor: LlavaProcessor,
    images: Sequence[Image],
    texts: Sequence[str],
    length: int | None = None,
) -> Batch:
    """Model inputs for frames and their rendered texts, padded on the right to `length` tokens, or
    to the longest of them.

    `input_ids` and `attention_mask` are `(frames, length)`, `pixel_values` `(frames, 3, side,
    side)`.
    """
    border: Border | None = processor.border
    batch = processor(
        images=list(images),
        text=list(texts),
        add_special_tokens=False,  # the template wrote BOS already
        padding="max_length" if length else True,
        max_length=length and length + (border.dropped if border else 0),
        padding_side="right",
        return_tensors="pt",
    )
    return border.drop(dict(batch)) if border else dict(batch)


def longest(processor: LlavaProcessor, rows: Dataset) -> int:
    """Tokens of the longest conversation in a split, the image's among them."""
    by_question: dict[str, Messages] = {}
    for batch in rows.select_columns("messages").with_format("arrow").iter(1000):
        for messages in batch["messages"].to_pylist():  # a hundred thousand in half a second
            question = str(question_of(messages))
            by_question[question] = max(by_question.get(question, messages), messages, key=_size)
    texts = [render(processor, messages) for messages in by_question.values()]
    images = [rows[0]["image"]] * len(texts)
    return int(encode(processor, images, texts)["input_ids"].shape[1])


def _size(messages: Messages) -> int:
    return len(str(messages))


class Collator:
    """Rows of a split to a training batch whose labels are the answer's digits and EOS, nothing
    else.

    With a `length` all batches have one shape; `picture` gives what of a row is shown.
    """

    def __init__(
        self,
        processor: LlavaProcessor,
        length: int | None = None,
        picture: Callable[[Any], Image] = itemgetter("image"),
    ) -> None:
        self.processor = processor
        self.length = length
        self.picture = picture

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """`labels` is `(rows, length)`; `logits_to_keep` is how many last positions can have a
        label; `counts` and `answer_starts` are `(rows,)`.
        """
        texts = [render(self.processor, row["messages"]) for row in rows]
        images = [self.picture(row) for row in rows]
        batch = encode(self.processor, images, texts, self.length)
        ends = batch.pop("attention_mask").sum(dim=1).tolist()
        labels = torch.full_like(batch["input_ids"], IGNORED)
        starts = []
        for row, (message_row, text, end) in enumerate(zip(rows, texts, ends, strict=True)):
            prompt = render_prompt(self.processor, message_row["messages"])
            answer = answer_ids(self.processor, prompt, text)
            starts.append(end - len(answer))
            labels[row, starts[-1] : end] = torch.tensor(answer)
        return batch | {
            "labels": labels,
            "logits_to_keep": labels.shape[1] - min(starts) + 1,
            "counts": torch.tensor([row["count"] for row in rows]),
            "answer_starts": torch.tensor(starts),
        }
