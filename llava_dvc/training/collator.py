"""Rows of a split as training batches."""

from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from operator import itemgetter
from typing import Any, NamedTuple

import datasets
import PIL.Image
import torch
from datasets import Dataset
from PIL.ExifTags import Base
from PIL.Image import Image
from torch import Tensor

from llava_dvc.conversation import Messages
from llava_dvc.model.chat_template import answer_ids, render, render_prompt, user_turn
from llava_dvc.model.encoder import Batch, Encoder
from llava_dvc.model.padding import Size
from llava_dvc.training.points import token_density

Point = tuple[float, float]

IGNORED = -100  # PyTorch's cross-entropy skips labels of this value
LYING = {5, 6, 7, 8}  # EXIF orientations that exchange width and height


class BatchShape(NamedTuple):
    """What all batches of a training have alike beside their rows, so that layers are compiled and
    steps recorded once.
    """

    length: int
    """Tokens of the longest conversation, image tokens included."""
    kept: int
    """How many last positions can have a label."""


class Collator:
    """Makes a batch whose labels are the answer's digits and EOS, nothing else."""

    def __init__(
        self,
        encoder: Encoder,
        shape: BatchShape | None = None,
        image_of: Callable[[Any], Image] = itemgetter("image"),
        points_of: Callable[[Any], Sequence[Point]] | None = None,
    ) -> None:
        """With a `shape` all batches have it. `image_of` gives the picture of a row. `points_of`
        gives where its people are, in pixels of that picture.
        """
        self.encoder, self.shape = encoder, shape
        self.image_of, self.points_of = image_of, points_of

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        """Returns the model inputs and:

        `labels`, `(rows, length)`; `logits_to_keep`, how many last positions can have a label;
        `counts` and `answer_starts`, both `(rows,)`. With `points_of` also `density`, the people
        per image token, `(rows, tokens)`.
        """
        processor = self.encoder.processor
        texts = [render(processor, row["messages"]) for row in rows]
        images = [self.image_of(row) for row in rows]
        length, kept = self.shape or (None, None)
        batch = self.encoder.encode(images, texts, length)
        ends = batch.pop("attention_mask").sum(dim=1).tolist()
        labels = torch.full_like(batch["input_ids"], IGNORED)
        starts = []
        for index, (row, text, end) in enumerate(zip(rows, texts, ends, strict=True)):
            prompt = render_prompt(processor, row["messages"])
            answer = answer_ids(processor, prompt, text)
            starts.append(end - len(answer))
            labels[index, starts[-1] : end] = torch.tensor(answer)
        if self.points_of:
            places = map(self.points_of, rows)
            sizes = [image.size for image in images]
            batch["density"] = torch.stack(list(map(self._density, places, sizes)))
        return batch | {
            "labels": labels,
            "logits_to_keep": kept or labels.shape[1] - min(starts) + 1,
            "counts": torch.tensor([row["count"] for row in rows]),
            "answer_starts": torch.tensor(starts),
        }

    def _density(self, points: Sequence[Point], size: Size) -> Tensor:
        places = [self.encoder.locate(point, size) for point in points]
        padding = self.encoder.padding(size)
        return token_density(places, self.encoder.grid, padding.visible if padding else None)


def image_sizes(rows: Dataset) -> Iterator[Size]:
    """Width and height of each row's image, from its header: twenty times as fast as decoding."""
    files = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))
    return (_upright_size(row["image"]["bytes"]) for row in files)


def batch_shape(encoder: Encoder, rows: Dataset) -> BatchShape:
    """The shape into which all batches of a split fit. A tile needs no more than its frame."""
    by_question: dict[str, Messages] = {}
    for batch in rows.select_columns("messages").with_format("arrow").iter(1000):
        for messages in batch["messages"].to_pylist():  # 100,000 rows in half a second
            question = str(user_turn(messages))
            by_question[question] = max(
                by_question.get(question, messages), messages, key=lambda m: len(str(m))
            )
    [image, *_] = encoder.pictures([rows[0]["image"]])
    longest = [{"messages": m, "image": image, "count": 0} for m in by_question.values()]
    batch = Collator(encoder)(longest)
    return BatchShape(batch["input_ids"].shape[1], batch["logits_to_keep"])


def _upright_size(content: bytes) -> Size:
    """As the library turns the image when it decodes it."""
    with PIL.Image.open(BytesIO(content)) as image:
        lies = image.getexif().get(Base.Orientation) in LYING
        return image.size[::-1] if lies else image.size
