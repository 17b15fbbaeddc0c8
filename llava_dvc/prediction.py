"""Count people in image files with an adapter, as evaluation did."""

import csv
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from llava_dvc.adapter import load_adapter
from llava_dvc.calibration import tempered
from llava_dvc.config import UserError
from llava_dvc.counting import decode, predict, quantile

BATCH = 8


def count_files(paths: Sequence[Path], adapter: Path) -> None:
    """Write one CSV row a file to standard output: its count and the central 80 % of the answer."""
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise UserError(
            f"{', '.join(missing[:5])}: not there ({len(missing)} in all); mend the path"
        )
    model, processor, recipe = load_adapter(adapter)
    content = [{"type": "image"}, {"type": "text", "text": recipe.question}]
    question = [{"role": "user", "content": content}]
    writer = csv.writer(sys.stdout)
    writer.writerow(["frame", "count", "low", "high"])
    for start in range(0, len(paths), BATCH):
        read = [(path, read_image(path)) for path in paths[start : start + BATCH]]
        for _, alike in groupby(read, lambda pair: processor.border and pair[1].size):
            batch, images = zip(*alike, strict=True)
            answers = predict(model, processor, images, question, recipe.max_count, BATCH)
            mass = tempered(answers.probabilities, recipe.temperature)
            counts = decode(replace(answers, probabilities=mass), recipe.decode)
            low, high = (quantile(mass, share) for share in (0.1, 0.9))
            writer.writerows(zip(batch, counts, low, high, strict=True))


def read_image(path: Path) -> Image.Image:
    """Raises UserError when `path` is no picture."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise UserError(f"{path}: cannot be read as an image ({error})") from None
