"""How a frame and its question become model inputs: pixels and tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL.Image import Image, Resampling, new
from torch import Tensor
from transformers import LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_dvc import config
from llava_dvc.conversation import Conversation
from llava_dvc.model.chat_template import CHAT_TEMPLATE, render_prompt
from llava_dvc.model.padding import DroppedPadding, Size
from llava_dvc.model.tiles import Tiles

Geometry = Literal["pad", "squash", "crop"]
Batch = dict[str, Any]

STRIP = 2**20  # pixels of a padded frame that are in memory at once


class EncodedPicture(NamedTuple):
    """A frame or a tile, ready for the vision tower before its batch is."""

    size: Size
    """Width and height before it was encoded, from which its border follows."""
    pixels: Tensor
    """`(1, 3, side, side)`."""


EncodedFrame = tuple[EncodedPicture, ...]
"""The pictures of one frame: its tiles, or the frame itself."""


class Encoder:
    """A checkpoint's processor with our geometry and our chat template in place of its own.

    `processor` is the Hugging Face processor. It is saved with an adapter.
    """

    def __init__(self, processor: LlavaProcessor, image: config.Image) -> None:
        size = processor.image_processor.size
        side = size["shortest_edge"] or size["height"]
        processor.chat_template = CHAT_TEMPLATE
        # The class that transformers loads depends on what else is installed.
        processor.image_processor = image_processor(image.geometry, side)
        self.processor = processor
        self._levels = level_values(processor.image_processor)
        self.drops_padding = image.drop_border
        self.tiles = image.tiles
        """Columns and rows of tiles in a frame."""
        self.grid = side // processor.patch_size
        """Image tokens of a frame, across and down."""
        self._paddings: dict[Size, DroppedPadding] = {}

    def prompt(self, question: str) -> str:
        """The question as text, up to and with the space before the answer."""
        return render_prompt(self.processor, Conversation(question).messages(None))

    def pictures(self, frames: Sequence[Image]) -> Sequence[Image]:
        """What the model sees one by one: the tiles of all frames, or the frames themselves."""
        return frames if self.tiles == (1, 1) else Tiles(frames, self.tiles)

    def encode_ahead(self, frame: Image) -> EncodedFrame:
        """The pictures of an RGB frame. Safe to call in several threads."""
        pictures = self.pictures([frame])
        return tuple(EncodedPicture(each.size, self.pixels([each])) for each in pictures)

    def padding(self, size: Size) -> DroppedPadding | None:
        """What is dropped of pictures of `size`. None if all patches get tokens."""
        if not self.drops_padding:
            return None
        if size not in self._paddings:
            self._paddings[size] = DroppedPadding(size, self.grid, self._image_start())
        return self._paddings[size]

    def encode(
        self, images: Sequence[Image], texts: Sequence[str], length: int | None = None
    ) -> Batch:
        """Model inputs for frames of one size and their rendered texts.

        Pads on the right to `length` tokens, or to the longest text. `input_ids` and
        `attention_mask` are `(frames, length)`, `pixel_values` is `(frames, 3, side, side)`.
        """
        padding = self.padding(images[0].size)
        batch = self.processor(
            images=[shrink(image, self.processor.image_processor) for image in images],
            text=list(texts),
            add_special_tokens=False,  # the template wrote BOS already
            padding="max_length" if length else True,
            max_length=length and length + (padding.dropped if padding else 0),
            padding_side="right",
            return_tensors="pt",
        )
        return padding.drop(dict(batch)) if padding else dict(batch)

    def pixels(self, images: Sequence[Image]) -> Tensor:
        """What the vision tower gets, `(frames, 3, side, side)`. The same numbers as `encode`'s, in
        less time.
        """
        target = self.processor.image_processor
        small: Any = [shrink(image, target) for image in images]
        if target.do_center_crop:
            cut = target(small, do_rescale=False, do_normalize=False, return_tensors="np")
            small = cut["pixel_values"].transpose(0, 2, 3, 1)
        colours = np.stack(small).transpose(3, 0, 1, 2)
        pixels = list(map(np.take, self._levels, colours))
        return torch.from_numpy(np.stack(pixels, axis=1))

    def locate(self, point: tuple[float, float], size: Size) -> tuple[float, float]:
        """Where a point, in pixels of a frame of `size`, is in the square that the tower gets.

        From 0 to 1 across and down, outside of that if the frame is cropped.
        """
        target = self.processor.image_processor
        if not (target.do_pad or target.do_center_crop):
            return point[0] / size[0], point[1] / size[1]
        side = max(size) if target.do_pad else min(size)
        x, y = ((p + (side - length) / 2) / side for p, length in zip(point, size, strict=True))
        return x, y

    def save(self, folder: Path) -> None:
        """Writes the processor and its chat template. What was encoded before changes no byte."""
        self.processor.tokenizer.backend_tokenizer.no_padding()  # else that of the last call
        self.processor.save_pretrained(folder)

    def _image_start(self) -> int:
        """Position of the first image token in every prompt."""
        before, _, _ = self.prompt("").partition(self.processor.image_token)
        return len(self.processor.tokenizer(before, add_special_tokens=False).input_ids)


def image_processor(geometry: Geometry, side: int) -> LlavaImageProcessorPil:
    """The image processor that gives the vision tower `side` x `side` pixels.

    `pad` adds a border in the mean colour, as the original LLaVA-1.5 was trained. `squash`
    distorts, and keeps more vertical detail of a wide frame. `crop` is the converted checkpoint's
    own setting: it cuts off the sides of a wide frame, and the people there. All use Pillow's
    resize: torchvision's differs by up to 2 of 255 levels.
    """
    square = {"height": side, "width": side}
    settings: dict[Geometry, dict[str, Any]] = {
        "pad": {"do_pad": True, "size": square, "do_center_crop": False},
        "squash": {"do_pad": False, "size": square, "do_center_crop": False},
        "crop": {"do_pad": False, "size": {"shortest_edge": side}, "crop_size": square},
    }
    return LlavaImageProcessorPil(**settings[geometry])


def level_values(target: LlavaImageProcessorPil) -> NDArray[np.float32]:
    """What `target` makes of the 256 levels of each colour, `(3, 256)`."""
    levels = np.tile(np.arange(256, dtype=np.uint8), (3, 1, 1))
    shares = target.rescale(levels, target.rescale_factor)
    values: NDArray[np.float32] = target.normalize(shares, target.image_mean, target.image_std)
    return values[:, 0]


def shrink(image: Image, target: LlavaImageProcessorPil) -> Image:
    """The RGB image at the size that `target` gives it, or the image itself if `target` crops it.

    `target` pads before it shrinks: 16x16384 pixels become 268 million. Here no more than a strip
    is padded at once, to the same pixels.
    """
    side = target.size["height"]
    if target.do_pad:
        colour = tuple(int(level * 255) for level in target.image_mean)
        return _pad_and_shrink(image, side, colour)
    return image if target.do_center_crop else image.resize((side, side), Resampling.BICUBIC)


def _pad_and_shrink(image: Image, side: int, colour: tuple[int, ...]) -> Image:
    """The same pixels as padding to a square, then shrinking: Pillow shrinks each row first."""
    width, height = image.size
    longest = max(width, height)
    left, top = (longest - width) // 2, (longest - height) // 2
    rows = max(1, STRIP // longest)
    narrow = new("RGB", (side, longest), colour)
    for start in range(0, height, rows):
        box = 0, start, width, min(height, start + rows)
        strip = new("RGB", (longest, box[3] - start), colour)
        strip.paste(image if rows >= height else image.crop(box), (left, 0))
        narrow.paste(strip.resize((side, strip.height), Resampling.BICUBIC), (0, top + start))
    return narrow.resize((side, side), Resampling.BICUBIC)
