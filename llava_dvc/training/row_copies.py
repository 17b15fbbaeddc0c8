"""Copies of a split's rows, each with a change of its own that is made when the row is read."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from datasets import Dataset, concatenate_datasets
from PIL.Image import Image

from llava_dvc.conversation import Conversation, question_text

Row = dict[str, Any]
Batch = dict[str, list[Any]]


def row_copies(rows: Dataset, column: str, number: int, change: Callable[[Row], Row]) -> Dataset:
    """All `rows`, `number` times. `column` numbers the copies from 0. `change` makes a row from a
    copy, after the changes that `rows` has already.
    """
    earlier = rows.format["format_kwargs"].get("transform")
    copies = [rows.add_column(column, [copy] * len(rows)) for copy in range(number)]
    return concatenate_datasets(copies).with_transform(
        partial(_change_batch, earlier=earlier, change=change)
    )


def _change_batch(
    batch: Batch, earlier: Callable[[Batch], Batch] | None, change: Callable[[Row], Row]
) -> Batch:
    batch = earlier(batch) if earlier else batch
    rows = [dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)]
    changed = [change(row) for row in rows]
    return {name: [row[name] for row in changed] for name in batch}


def recounted(row: Row, copy: int, image: Image, people: Sequence[tuple[float, float]]) -> Row:
    """The row with another picture and the people in it, with their number as the answer."""
    return row | {
        "frame": f"{row['frame']} {copy}",  # it has random draws of its own
        "image": image,
        "points": [{"x": x, "y": y} for x, y in people],
        "count": len(people),
        "messages": Conversation(question_text(row["messages"])).messages(len(people)),
    }
