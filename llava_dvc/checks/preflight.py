"""Whether the model about to train is the one that was asked for: its layers, its adapters, what it
reads and where its gradients go. Nothing is left behind: a training with these checks is the
training without them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaProcessor

from llava_dvc import config
from llava_dvc.checks import hardware
from llava_dvc.checks.gradient_check import Passes, adapter_tensors, run_passes
from llava_dvc.checks.hardware import Check
from llava_dvc.model.chat_template import render_prompt
from llava_dvc.model.encoder import Batch, Encoder
from llava_dvc.model.model_patches import blocks_read
from llava_dvc.training.collator import IGNORED
from llava_dvc.training.count_trainer import CountTrainer

LANGUAGE = "model.language_model.layers."
PROJECTOR = "model.multi_modal_projector."
BLOCK = "model.vision_tower.encoder.layers.{}."
PARTS = ("projector", "vision")  # besides the language model
REMEDY = "install the locked packages with `make setup`, or choose a LLaVA-1.5-shaped checkpoint"
CAMERA = (640, 480)  # pixels of a usual frame
EDGE = 8  # columns at its side

Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What params.yaml says of the model."""

    backbone: config.Backbone
    image: config.Image
    adapter: config.Adapter


def require_sound(trainer: CountTrainer, asked: Asked) -> None:
    """Raises UserError with the first fault."""
    hardware.raise_first_fault(inspect(trainer, asked))


def inspect(trainer: CountTrainer, asked: Asked) -> Iterator[Check]:
    """Look at the model at rest, then, if nothing is wrong yet, at two passes of two rows."""
    model, processor = trainer.model.get_base_model(), trainer.processing_class
    rows = [trainer.train_dataset[i] for i in range(min(2, len(trainer.train_dataset)))]
    batch = trainer.data_collator(rows)
    at_rest = [
        _quantised(model, asked.backbone),
        _adapted(model, asked.adapter),
        _precise(trainer),
        _labels(processor, rows, batch),
        _prompts(trainer.encoder, rows, batch),
        _image_tokens(trainer, asked.backbone, batch),
        _edges(processor, asked.image),
    ]
    yield from at_rest
    if not any(check.fault for check in at_rest):
        passes = run_passes(trainer, batch)
        yield _alive(passes)
        yield _frozen(passes)
        yield _tower(passes, asked.adapter)
        yield _computes(trainer, asked.backbone)


def _quantised(model: Any, backbone: config.Backbone) -> Check:
    """Exactly the language model's linear layers, or none."""
    layers = linear_layers(model)
    nf4 = backbone.quantization == "nf4"
    expected = {name for name in layers if nf4 and name.startswith(LANGUAGE)}
    found = {name for name, layer in layers.items() if _is_nf4(layer)}
    difference = _difference(expected, found, "is in 4-bit", "is not in 4-bit")
    fault = f"backbone.quantization: is {backbone.quantization}, but {difference}; {REMEDY}"
    said = f"{len(found)} of {len(layers)} linear layers"
    return Check("4-bit layers", said, fault if difference else None)


def _adapted(model: Any, adapter: config.Adapter) -> Check:
    """Exactly the layers that `adapter` names."""
    found = {name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    expected = layers_to_adapt(model, adapter)
    difference = _difference(expected, found, "carries an adapter", "carries no adapter")
    parts = ", ".join(["language", *(part for part in PARTS if getattr(adapter, part))])
    fault = f"adapter: asks for {parts}, but {difference}; {REMEDY}"
    return Check("adapted layers", f"{len(found)} in {parts}", fault if difference else None)


def _precise(trainer: CountTrainer) -> Check:
    adapters = adapter_tensors(trainer.model)
    coarse = {name: p.dtype for name, p in adapters.items() if p.dtype != torch.float32}
    if not coarse:
        return Check("adapters' format", "float32")
    dtype = _name(next(iter(coarse.values())))
    fault = (
        f"train.learning_rate: is {trainer.args.learning_rate:g}, but {len(coarse)} of "
        f"{len(adapters)} adapter tensors are {dtype}, which rounds such steps away, instead of "
        f"float32; {REMEDY}"
    )
    return Check("adapters' format", dtype, fault)


def _labels(processor: LlavaProcessor, rows: Sequence[Row], batch: Batch) -> Check:
    """Each row learns its answer and EOS, nothing else."""
    learnt, fault = [], None
    for row, labels in zip(rows, batch["labels"], strict=True):
        ids = labels[labels != IGNORED].tolist()
        learnt.append("".join(processor.tokenizer.convert_ids_to_tokens(ids)))
        answer = row["messages"][-1]["content"][0]["text"] + processor.tokenizer.eos_token
        if learnt[-1] != answer:
            fault = (
                f"backbone.name: with its tokenizer a row would learn {len(ids)} tokens ending in "
                f"{learnt[-1][-16:]!r}, expected {answer!r}; {REMEDY}"
            )
    return Check("labels", ", ".join(learnt), fault)


def _prompts(encoder: Encoder, rows: Sequence[Row], batch: Batch) -> Check:
    """BOS once, and what prediction asks is how the training sequence begins."""
    fault, processor = None, encoder.processor
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        text = render_prompt(processor, row["messages"])
        prompt = encoder.encode([row["image"]], [text])["input_ids"][0]
        learnt = int((labels != IGNORED).nonzero()[0])
        bos = (ids == processor.tokenizer.bos_token_id).nonzero().flatten().tolist()
        if bos != [0]:
            fault = f"backbone.name: BOS is at {bos} in a training sequence, expected [0]; {REMEDY}"
        elif not torch.equal(prompt, ids[:learnt]):
            fault = (
                f"backbone.name: the {len(prompt)} tokens of the prompt at prediction are not the "
                f"{learnt} that come before the answer in training; {REMEDY}"
            )
    return Check("prompt", "BOS once, as at prediction", fault)


def _image_tokens(trainer: CountTrainer, backbone: config.Backbone, batch: Batch) -> Check:
    """As many as the tower gives, in a sequence that is nowhere cut."""
    llava, processor = trainer.model.get_base_model().config, trainer.processing_class
    expected, side = tokens_per_frame(llava), llava.vision_config.image_size
    if padding := trainer.encoder.padding(trainer.spec.train[0]["image"].size):
        expected -= len(padding)
    found = (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist()
    length, limit = batch["input_ids"].shape[1], llava.text_config.max_position_embeddings
    fault = None
    if any(count != expected for count in found):
        fault = f"has a processor that writes {found[0]} image tokens, expected {expected}"
    elif batch["pixel_values"].shape[-2:] != (side, side):
        fault = f"takes {side}x{side} pixels, its processor gives {_size(batch['pixel_values'])}"
    elif trainer.args.max_length is not None:
        fault = f"would get sequences cut to max_length {trainer.args.max_length}"
    elif length > limit:
        fault = f"reads {limit} tokens, a row has {length}"
    fault = fault and f"backbone.name: {backbone.name} {fault}; {REMEDY}"
    return Check("image tokens", f"{found[0]} of {length} tokens", fault)


def _edges(processor: LlavaProcessor, image: config.Image) -> Check:
    """The outermost columns of a frame reach the tower."""
    frame = Image.new("RGB", CAMERA, (128, 128, 128))
    marked = [frame.copy() for _ in range(2)]
    for copy, left in zip(marked, (0, CAMERA[0] - EDGE), strict=True):
        copy.paste((255, 255, 255), (left, 0, left + EDGE, CAMERA[1]))
    plain, *sides = processor.image_processor([frame, *marked], return_tensors="pt")["pixel_values"]
    if not any(torch.equal(plain, side) for side in sides):
        return Check("frame's edges", f"seen ({image.geometry})")
    lost = f"image.geometry: is {image.geometry}, and the sides of a {CAMERA[0]}x{CAMERA[1]} frame"
    if image.geometry == "crop":
        return Check(
            "frame's edges", "cut off", note=f"{lost} are cut off; pad or squash keep them"
        )
    return Check("frame's edges", "cut off", f"{lost} do not reach the model; {REMEDY}")


def _alive(passes: Passes) -> Check:
    fault = f"adapter: no gradient, or no finite one, reaches {_first(passes.silent)}; {REMEDY}"
    said = f"all {passes.adapters} tensors get a gradient"
    return Check("adapters learn", said, fault if passes.silent else None)


def _frozen(passes: Passes) -> Check:
    fault = None
    if passes.strays:
        fault = f"adapter: {_first(passes.strays)} would be trained too; {REMEDY}"
    elif passes.changed:
        fault = f"backbone.name: a pass changes {_first(passes.changed)}; {REMEDY}"
    return Check("frozen weights", "no gradients, unchanged", fault)


def _tower(passes: Passes, adapter: config.Adapter) -> Check:
    if adapter.vision or not passes.through_tower:
        return Check("vision tower", "with a graph" if passes.through_tower else "without a graph")
    fault = (
        "adapter.vision: is false, but backward would go through the whole vision tower for "
        f"nothing; {REMEDY}, or set train.checkpointing to false"
    )
    return Check("vision tower", "with a graph", fault)


def _computes(trainer: CountTrainer, backbone: config.Backbone) -> Check:
    """The number format of weights, of 4-bit layers and of autocast."""
    model, args = trainer.model.get_base_model(), trainer.args
    adapters = {id(parameter) for parameter in adapter_tensors(trainer.model).values()}
    frozen = (p for p in model.parameters() if p.is_floating_point() and id(p) not in adapters)
    found = {_name(parameter.dtype) for parameter in frozen}
    found |= {_name(m.compute_dtype) for m in model.modules() if isinstance(m, Linear4bit)}
    found |= {name for name, on in (("bfloat16", args.bf16), ("float16", args.fp16)) if on}
    said = ", ".join(sorted(found))
    fault = f"backbone.dtype: is {backbone.dtype}, but the model computes in {said}; {REMEDY}"
    return Check("computes in", said, fault if found != {backbone.dtype} else None)


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """The backbone's linear layers by its own names, without what an adapter puts around them."""
    return {
        name.replace(".base_layer", ""): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    }


def layers_to_adapt(model: Any, adapter: config.Adapter) -> set[str]:
    """Names of the layers that `adapter` asks for; a part without any stands for itself."""
    parts = [LANGUAGE]
    if adapter.projector:
        parts.append(PROJECTOR)
    if adapter.vision:
        parts += [BLOCK.format(block) for block in range(blocks_read(model.config))]
    names = linear_layers(model)
    there = {name for name in names if name.startswith(tuple(parts))}
    return there | {part for part in parts if not any(name.startswith(part) for name in names)}


def tokens_per_frame(llava: LlavaConfig) -> int:
    """One a patch of the tower's input: 576 for LLaVA-1.5."""
    patches = (llava.vision_config.image_size // llava.vision_config.patch_size) ** 2
    return int(patches + (llava.vision_feature_select_strategy == "full"))


def _is_nf4(layer: nn.Module) -> bool:
    if not isinstance(layer, Linear4bit):
        return False
    return layer.weight.quant_type == "nf4" and layer.weight.quant_state is not None


def _difference(expected: set[str], found: set[str], has: str, lacks: str) -> str | None:
    """`NAME is in 4-bit (and 2 more differ)`, or None if both are the same."""
    names = sorted(expected ^ found)
    if not names:
        return None
    more = f" (and {len(names) - 1} more differ)" if len(names) > 1 else ""
    return f"{names[0]} {has if names[0] in found else lacks}{more}"


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"{names[0] if names else ''}{more}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _size(pixels: Tensor) -> str:
    return "x".join(map(str, pixels.shape[-2:]))
