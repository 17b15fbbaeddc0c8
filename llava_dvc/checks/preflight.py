"""Checks that the model to train is the requested one: 4-bit layers, adapters, inputs, gradients.

The checks leave the trainer unchanged: training gives the same result without them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import nn
from transformers import LlavaConfig, LlavaProcessor

from llava_dvc import config
from llava_dvc.checks.check import Check, raise_first_fault
from llava_dvc.checks.gradient_check import GradientReport, gradient_report, trained_tensors
from llava_dvc.model.chat_template import render_prompt
from llava_dvc.model.encoder import Batch, Encoder
from llava_dvc.model.fp8.linear import Fp8Linear
from llava_dvc.model.model_patches import blocks_read
from llava_dvc.training.collator import IGNORED
from llava_dvc.training.count_trainer import CountTrainer

LANGUAGE = "model.language_model.layers."
PROJECTOR = "model.multi_modal_projector."
BLOCK = "model.vision_tower.encoder.layers.{}."
PACKINGS = {"nf4": "4-bit", "fp8": "FP8", "none": None}
OPTIONAL_PARTS = ("projector", "vision")  # the language model always gets adapters
REMEDY = (
    "Install the locked packages with `make setup`, "
    "or choose a checkpoint with the architecture of LLaVA-1.5."
)
CAMERA_SIZE = (640, 480)  # pixels
EDGE = 8  # pixels

Row = dict[str, Any]


@dataclass(frozen=True)
class RequestedModel:
    """The sections of params.yaml that describe the model."""

    backbone: config.Backbone
    image: config.Image
    adapter: config.Adapter


def require_model(trainer: CountTrainer, requested: RequestedModel) -> None:
    """Raises UserError if the trainer's model is not the requested one."""
    raise_first_fault(model_checks(trainer, requested))


def model_checks(trainer: CountTrainer, requested: RequestedModel) -> Iterator[Check]:
    """Yields the checks that need no forward pass. If none fails, runs two forward and backward
    passes and yields the checks of these.
    """
    model, processor = trainer.model.get_base_model(), trainer.processing_class
    rows = [trainer.train_dataset[i] for i in range(min(2, len(trainer.train_dataset)))]
    batch = trainer.data_collator(rows)
    without_pass = [
        _check_quantization(model, requested.backbone),
        _check_adapted_layers(model, requested.adapter),
        _check_adapter_dtype(trainer),
        _check_labels(processor, rows, batch),
        _check_prompts(trainer.encoder, rows, batch),
        _check_image_tokens(trainer, requested.backbone, batch),
        _check_frame_edges(processor, requested.image),
    ]
    yield from without_pass
    if not any(check.fault for check in without_pass):
        report = gradient_report(trainer, batch)
        yield _check_adapter_gradients(report)
        yield _check_frozen_weights(report)
        yield _check_tower_graph(report, requested.adapter)
        yield _check_compute_dtype(trainer, requested.backbone)


def _check_quantization(model: Any, backbone: config.Backbone) -> Check:
    """With nf4 or fp8, all linear layers of the language model are so, and no others."""
    layers, wanted = _linear_layers(model), PACKINGS[backbone.quantization]
    packed = {name: _packing_of(layer) for name, layer in layers.items()}
    differences = []
    for packing in filter(None, PACKINGS.values()):
        found = {name for name, own in packed.items() if own == packing}
        expected = {n for n in layers if packing == wanted and n.startswith(LANGUAGE)}
        differences.append(_difference(expected, found, f"is in {packing}", f"is not in {packing}"))
    difference = next(filter(None, differences), None)
    fault = f"backbone.quantization: is {backbone.quantization}, but {difference}. {REMEDY}"
    text = f"{sum(own is not None for own in packed.values())} of {len(layers)} linear layers"
    return Check(f"{wanted or '4-bit'} layers", text, fault if difference else None)


def _check_adapted_layers(model: Any, adapter: config.Adapter) -> Check:
    """The layers that `adapter` asks for have an adapter, and no others."""
    found = {name for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    expected = _layers_to_adapt(model, adapter)
    difference = _difference(expected, found, "has an adapter", "has no adapter")
    parts = ", ".join(["language", *(part for part in OPTIONAL_PARTS if getattr(adapter, part))])
    fault = f"adapter: asks for adapters in {parts}, but {difference}. {REMEDY}"
    return Check("adapted layers", f"{len(found)} in {parts}", fault if difference else None)


def _check_adapter_dtype(trainer: CountTrainer) -> Check:
    """Adapters are float32. In bfloat16 most steps of a small learning rate change nothing."""
    adapters = trained_tensors(trainer.model)
    others = {name: p.dtype for name, p in adapters.items() if p.dtype != torch.float32}
    if not others:
        return Check("adapter dtype", "float32")
    dtype = _dtype_name(next(iter(others.values())))
    fault = (
        f"train.learning_rate: is {trainer.args.learning_rate:g}, but {len(others)} of "
        f"{len(adapters)} adapter tensors are {dtype} instead of float32. "
        f"Rounding to {dtype} loses such small steps. {REMEDY}"
    )
    return Check("adapter dtype", dtype, fault)


def _check_labels(processor: LlavaProcessor, rows: Sequence[Row], batch: Batch) -> Check:
    """The labels of a row are its answer and EOS, nothing else."""
    texts, fault = [], None
    for row, labels in zip(rows, batch["labels"], strict=True):
        ids = labels[labels != IGNORED].tolist()
        texts.append("".join(processor.tokenizer.convert_ids_to_tokens(ids)))
        answer = row["messages"][-1]["content"][0]["text"] + processor.tokenizer.eos_token
        if texts[-1] != answer:
            fault = (
                f"backbone.name: its tokenizer gives {len(ids)} label tokens that end in "
                f"{texts[-1][-16:]!r}, but the labels must be {answer!r}. {REMEDY}"
            )
    return Check("labels", ", ".join(texts), fault)


def _check_prompts(encoder: Encoder, rows: Sequence[Row], batch: Batch) -> Check:
    """A training sequence has one BOS, at its start, and the prompt tokens of prediction."""
    fault, processor = None, encoder.processor
    for row, ids, labels in zip(rows, batch["input_ids"], batch["labels"], strict=True):
        text = render_prompt(processor, row["messages"])
        prompt = encoder.encode([row["image"]], [text])["input_ids"][0]
        answer_start = int((labels != IGNORED).nonzero()[0])
        bos = (ids == processor.tokenizer.bos_token_id).nonzero().flatten().tolist()
        if bos != [0]:
            fault = (
                f"backbone.name: a training sequence has BOS at {bos}, but needs it at [0]. "
                f"{REMEDY}"
            )
        elif not torch.equal(prompt, ids[:answer_start]):
            fault = (
                f"backbone.name: the {len(prompt)} prompt tokens at prediction differ from the "
                f"{answer_start} tokens before the answer in training. {REMEDY}"
            )
    return Check("prompt", "one BOS, as at prediction", fault)


def _check_image_tokens(trainer: CountTrainer, backbone: config.Backbone, batch: Batch) -> Check:
    """A picture has one token per patch that is not dropped, and no sequence is truncated."""
    llava, processor = trainer.model.get_base_model().config, trainer.processing_class
    expected, side = _tokens_per_frame(llava), llava.vision_config.image_size
    if padding := trainer.encoder.padding(trainer.train_dataset[0]["image"].size):
        expected -= padding.dropped
    found = (batch["input_ids"] == processor.image_token_id).sum(dim=1).tolist()
    length, limit = batch["input_ids"].shape[1], llava.text_config.max_position_embeddings
    height, width = batch["pixel_values"].shape[-2:]
    fault = None
    if any(count != expected for count in found):
        fault = f"needs {expected} image tokens, but its processor writes {found[0]}"
    elif (height, width) != (side, side):
        fault = f"takes {side}x{side} pixels, but its processor gives {height}x{width}"
    elif trainer.args.max_length is not None:
        fault = f"needs whole sequences, but max_length cuts them to {trainer.args.max_length}"
    elif length > limit:
        fault = f"reads {limit} tokens at most, but a row has {length}"
    fault = fault and f"backbone.name: {backbone.name} {fault}. {REMEDY}"
    return Check("image tokens", f"{found[0]} of {length} tokens", fault)


def _check_frame_edges(processor: LlavaProcessor, image: config.Image) -> Check:
    """White columns at the left or right edge of a grey frame change the pixels that come out."""
    frame = Image.new("RGB", CAMERA_SIZE, (128, 128, 128))
    marked = [frame.copy() for _ in range(2)]
    for copy, left in zip(marked, (0, CAMERA_SIZE[0] - EDGE), strict=True):
        copy.paste((255, 255, 255), (left, 0, left + EDGE, CAMERA_SIZE[1]))
    plain, *sides = processor.image_processor([frame, *marked], return_tensors="pt")["pixel_values"]
    if not any(torch.equal(plain, side) for side in sides):
        return Check("frame edges", f"seen ({image.geometry})")
    size = f"{CAMERA_SIZE[0]}x{CAMERA_SIZE[1]}"
    if image.geometry == "crop":
        note = (
            f"image.geometry: is crop, which cuts off the sides of a {size} frame. "
            "Set it to pad or squash to keep them."
        )
        return Check("frame edges", "cut off", note=note)
    fault = (
        f"image.geometry: is {image.geometry}, but the sides of a {size} frame do not reach the "
        f"model. {REMEDY}"
    )
    return Check("frame edges", "cut off", fault)


def _check_adapter_gradients(report: GradientReport) -> Check:
    names = _summary_of(report.without_gradient)
    fault = f"adapter: no gradient that is finite and not 0 reaches {names}. {REMEDY}"
    text = f"all {report.adapters} tensors get a gradient"
    return Check("adapters learn", text, fault if report.without_gradient else None)


def _check_frozen_weights(report: GradientReport) -> Check:
    fault = None
    if report.unfrozen:
        fault = f"adapter: training would also change {_summary_of(report.unfrozen)}. {REMEDY}"
    elif report.changed:
        names = _summary_of(report.changed)
        fault = f"backbone.name: a pass changes {names}, which must stay frozen. {REMEDY}"
    return Check("frozen weights", "no gradients, unchanged", fault)


def _check_tower_graph(report: GradientReport, adapter: config.Adapter) -> Check:
    """Without adapters in the tower, the backward pass does not go through it."""
    text = "in the backward pass" if report.tower_in_graph else "not in the backward pass"
    if adapter.vision or not report.tower_in_graph:
        return Check("vision tower", text)
    fault = (
        "adapter.vision: is false, but the backward pass goes through the whole vision tower. "
        "Install the locked packages with `make setup`."
    )
    return Check("vision tower", text, fault)


def _check_compute_dtype(trainer: CountTrainer, backbone: config.Backbone) -> Check:
    """Frozen weights, 4-bit and FP8 layers and autocast all use `backbone.dtype`."""
    model, args, packed = trainer.model.get_base_model(), trainer.args, Linear4bit | Fp8Linear
    adapters = {id(parameter) for parameter in trained_tensors(trainer.model).values()}
    frozen = (p for p in model.parameters() if p.is_floating_point() and id(p) not in adapters)
    found = {_dtype_name(parameter.dtype) for parameter in frozen}
    found |= {_dtype_name(m.compute_dtype) for m in model.modules() if isinstance(m, packed)}
    found |= {name for name, on in (("bfloat16", args.bf16), ("float16", args.fp16)) if on}
    text = ", ".join(sorted(found))
    fault = f"backbone.dtype: is {backbone.dtype}, but the model computes in {text}. {REMEDY}"
    return Check("compute dtype", text, fault if found != {backbone.dtype} else None)


def _linear_layers(model: Any) -> dict[str, nn.Linear]:
    """Returns the backbone's linear layers by their names without adapters."""
    return {
        name.replace(".base_layer", ""): module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    }


def _layers_to_adapt(model: Any, adapter: config.Adapter) -> set[str]:
    """Returns the names of the layers that need an adapter.

    A part without linear layers gives its own name, which then counts as a missing adapter.
    """
    parts = [LANGUAGE]
    if adapter.projector:
        parts.append(PROJECTOR)
    if adapter.vision:
        parts += [BLOCK.format(block) for block in range(blocks_read(model.config))]
    names = _linear_layers(model)
    expected = {name for name in names if name.startswith(tuple(parts))}
    return expected | {part for part in parts if not any(name.startswith(part) for name in names)}


def _tokens_per_frame(llava: LlavaConfig) -> int:
    """Returns the number of patches, 576 for LLaVA-1.5; one more if the class token is kept."""
    patches = (llava.vision_config.image_size // llava.vision_config.patch_size) ** 2
    return int(patches + (llava.vision_feature_select_strategy == "full"))


def _packing_of(layer: Any) -> str | None:
    """Returns how the layer's weights are stored, or None if they are plain numbers."""
    if isinstance(layer, Fp8Linear):
        return PACKINGS["fp8"]
    nf4 = isinstance(layer, Linear4bit) and layer.weight.quant_type == "nf4"
    return PACKINGS["nf4"] if nf4 and layer.weight.quant_state is not None else None


def _difference(expected: set[str], found: set[str], has: str, lacks: str) -> str | None:
    """Returns `NAME is in 4-bit (2 more differ)`, or None if the sets are equal."""
    names = sorted(expected ^ found)
    if not names:
        return None
    more = f" ({len(names) - 1} more differ)" if len(names) > 1 else ""
    return f"{names[0]} {has if names[0] in found else lacks}{more}"


def _summary_of(names: Sequence[str]) -> str:
    """Returns `NAME and 2 more tensors`."""
    more = f" and {len(names) - 1} more tensors" if len(names) > 1 else ""
    return f"{names[0] if names else ''}{more}"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
