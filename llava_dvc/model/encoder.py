"""How a frame and its question become model inputs: pixels and tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from PIL.Image import Image
from transformers import LlavaProcessor
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_dvc import config
from llava_dvc.conversation import Conversation
from llava_dvc.model.chat_template import CHAT_TEMPLATE, render_prompt
from llava_dvc.model.padding import DroppedPadding, Size

Geometry = Literal["pad", "squash", "crop"]
Batch = dict[str, Any]


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
        self.drops_padding = image.drop_border
        self._grid = side // processor.patch_size
        self._paddings: dict[Size, DroppedPadding] = {}

    def prompt(self, question: str) -> str:
        """The question as text, up to and with the space before the answer."""
        return render_prompt(self.processor, Conversation(question).messages(None))

    def padding(self, size: Size) -> DroppedPadding | None:
        """What is dropped of frames of `size`. None if all patches get tokens."""
        if not self.drops_padding:
            return None
        if size not in self._paddings:
            self._paddings[size] = DroppedPadding(size, self._grid, self._image_start())
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
            images=list(images),
            text=list(texts),
            add_special_tokens=False,  # the template wrote BOS already
            padding="max_length" if length else True,
            max_length=length and length + (padding.dropped if padding else 0),
            padding_side="right",
            return_tensors="pt",
        )
        return padding.drop(dict(batch)) if padding else dict(batch)

    def save(self, folder: Path) -> None:
        """Writes the processor and its chat template."""
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
