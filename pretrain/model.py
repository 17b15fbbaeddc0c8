"""The shape of tiny-llava, its processor, and the checkpoint that pretraining writes."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from llava_dvc.model.chat_template import CHAT_TEMPLATE

CARD = Path(__file__).with_name("CARD.md")


@dataclass(frozen=True)
class Shape:
    """Widths are multiples of 64, the block size of 4-bit quantisation."""

    image: int
    patch: int
    vision_width: int
    vision_inner: int
    vision_layers: int
    text_width: int
    text_inner: int
    text_layers: int

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image // self.patch

    @property
    def patches(self) -> int:
        return self.grid**2


SHAPES = {
    "first": Shape(224, 14, 256, 1024, 6, 192, 512, 4),
    "second": Shape(320, 16, 256, 768, 8, 192, 512, 4),
    "fourth": Shape(448, 16, 256, 768, 8, 192, 512, 4),
    "fifth": Shape(384, 16, 256, 768, 8, 192, 512, 4),
    "sixth": Shape(384, 16, 256, 640, 7, 128, 384, 3),
    "seventh": Shape(384, 16, 192, 768, 9, 128, 384, 4),
    "eighth": Shape(384, 16, 192, 768, 9, 192, 512, 3),
    "dry": Shape(84, 14, 64, 128, 3, 64, 128, 2),
}


def build_model(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """Returns a model with random weights and a vocabulary rounded up to a multiple of 64."""
    config = LlavaConfig(
        vision_config=_vision_config(shape),
        text_config=_text_config(shape, tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=shape.patches,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    return LlavaForConditionalGeneration(config)


def _vision_config(shape: Shape) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        image_size=shape.image,
        patch_size=shape.patch,
        hidden_size=shape.vision_width,
        intermediate_size=shape.vision_inner,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_width // 64,
        projection_dim=shape.vision_width,
    )


def _text_config(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=shape.text_width,
        intermediate_size=shape.text_inner,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=shape.text_width // 64,
        num_key_value_heads=shape.text_width // 64,
        max_position_embeddings=2048,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_processor(shape: Shape, tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """Returns a processor that squashes: the whole frame fills all patches."""
    images = LlavaImageProcessorPil(
        size={"height": shape.image, "width": shape.image},
        do_center_crop=False,
        do_pad=False,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=shape.patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )


def save_backbone(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path
) -> None:
    """Writes a bf16 checkpoint with the files of `AutoProcessor` and the model card."""
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    shutil.copyfile(CARD, folder / "README.md")
