"""How a frame becomes pixels: the whole frame padded or squashed to a square, or its middle cut
out.
"""

from typing import Any, Literal

from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

Geometry = Literal["pad", "squash", "crop"]


def image_processor(geometry: Geometry, side: int) -> LlavaImageProcessorPil:
    """The image processor that gives the tower `side` x `side` pixels.

    `pad` adds a border in the mean colour, as the original LLaVA-1.5 was trained; `squash`
    distorts, and is finer vertically for a wide frame; `crop`, the converted checkpoint's own
    setting, loses the sides of a wide frame and the people in them. Always Pillow's resize:
    torchvision's differs by up to 2 of 255 levels.
    """
    square = {"height": side, "width": side}
    settings: dict[Geometry, dict[str, Any]] = {
        "pad": {"do_pad": True, "size": square, "do_center_crop": False},
        "squash": {"do_pad": False, "size": square, "do_center_crop": False},
        "crop": {"do_pad": False, "size": {"shortest_edge": side}, "crop_size": square},
    }
    return LlavaImageProcessorPil(**settings[geometry])
