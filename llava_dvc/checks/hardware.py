"""Checks that this machine can load the backbone: device, dtype, checkpoint and GPU memory."""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_dvc import config, errors
from llava_dvc.checks.check import Check, raise_first_fault
from llava_dvc.errors import UserError
from llava_dvc.files import require_regular_files
from llava_dvc.load_errors import explain_load_errors
from llava_dvc.model.backbone import is_spread_by_fsdp

GIB = 2**30
MAX_LAYERS = 1000  # the largest models have 130
MAX_POSITIONS = 2**24
FLOATS = ("F16", "BF16", "F32")
WORKSPACE = 2 * GIB  # for CUDA's context, an adapter and the activations of a small batch
FP8_CAPABILITY = (8, 9)  # Ada; Hopper has 9.0
NF4 = 0.516  # bytes per weight: 4 bits, and its share of the double-quantized scales
TINY = "backbones/tiny-llava.dvc"
CPU_INFO = Path("/proc/cpuinfo")
CPU_FLAGS = {"bfloat16": ("bf16",), "float16": ("fp16", "asimdhp")}  # asimdhp: on ARM


def require_hardware(backbone: config.Backbone) -> None:
    """Raises UserError if `backbone` cannot be loaded on this machine."""
    raise_first_fault(hardware_checks(backbone))


def hardware_checks(backbone: config.Backbone) -> Iterator[Check]:
    """Yields the checks that need no weights."""
    device = _check_device(backbone)
    yield device
    if not device.fault:
        yield _check_dtype(backbone)
        if backbone.quantization == "fp8":
            yield _check_fp8(backbone)
    checkpoint = _check_checkpoint(backbone)
    yield checkpoint
    if backbone.device == "cuda" and not device.fault and not checkpoint.fault:
        yield _check_memory(backbone)


def weight_bytes(backbone: config.Backbone, llava: LlavaConfig) -> int:
    """Returns the bytes that the weights take on the device, computed from their shapes."""
    model = _empty_model(llava)
    weights = sum(parameter.numel() for parameter in model.parameters())
    layers = model.model.language_model.layers.modules()
    linear = sum(m.weight.numel() for m in layers if isinstance(m, nn.Linear))
    width = getattr(torch, backbone.dtype).itemsize
    if backbone.quantization == "none":
        return int(weights * width)
    packed = 1 if backbone.quantization == "fp8" else NF4 + width * backbone.unpacked
    return int((weights - linear) * width + linear * packed)


def _check_device(backbone: config.Backbone) -> Check:
    if backbone.device == "cpu":
        return Check("device", f"cpu, {backbone.threads} threads on {os.cpu_count()} cores")
    if not torch.cuda.is_available():
        fault = (
            "backbone.device: is cuda, but PyTorch finds no CUDA device. "
            "Use a machine with a GPU, or run `llava-dvc preset tiny` to use the CPU."
        )
        return Check("device", "no CUDA device", fault)
    return Check("device", torch.cuda.get_device_name())


def _check_dtype(backbone: config.Backbone) -> Check:
    found: str = backbone.dtype
    fault = note = None
    if backbone.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        found = f"{backbone.dtype}, compute capability {major}.{minor}"
        if backbone.dtype == "bfloat16" and major < 8:
            fault = (
                f"backbone.dtype: is bfloat16, but {torch.cuda.get_device_name()} has compute "
                f"capability {major}.{minor} and bfloat16 needs 8.0. Set it to float16."
            )
    elif backbone.dtype != "float32" and not _cpu_computes(backbone.dtype):
        note = (
            f"backbone.dtype: is {backbone.dtype}, but this CPU has no instructions for it. "
            "Set it to float32, which is faster here."
        )
    return Check("dtype", found, fault, note)


def _check_fp8(backbone: config.Backbone) -> Check:
    """A GPU needs units for FP8; their products are in bfloat16. A CPU imitates them."""
    name, fault, note = "FP8", None, None
    if backbone.device == "cpu":
        note = "backbone.quantization: is fp8, which a CPU only imitates. Set it to nf4 here."
        return Check(name, "imitated", note=note)
    capability = tuple(torch.cuda.get_device_capability())
    found = f"compute capability {capability[0]}.{capability[1]}"
    if capability < FP8_CAPABILITY:
        fault = (
            f"backbone.quantization: is fp8, but {torch.cuda.get_device_name()} has {found} and "
            "FP8 needs 8.9. Set it to nf4."
        )
    elif backbone.dtype != "bfloat16":
        fault = (
            f"backbone.dtype: is {backbone.dtype}, but a GPU multiplies FP8 to bfloat16. Set it to "
            "bfloat16, or backbone.quantization to nf4."
        )
    elif is_spread_by_fsdp():
        fault = (
            "backbone.quantization: is fp8, whose weights FSDP cannot spread. Set it to nf4, or "
            "train.launcher to one with presets/accelerate/ddp.yaml."
        )
    return Check(name, found, fault)


def _cpu_computes(dtype: str) -> bool:
    """Whether the CPU has instructions for a 16-bit dtype. True if the system does not say."""
    try:
        cpu_info = CPU_INFO.read_text()
    except OSError:
        return True
    return any(flag in cpu_info for flag in CPU_FLAGS[dtype])


def _check_checkpoint(backbone: config.Backbone) -> Check:
    try:
        llava = _read_llava_config(backbone)
    except UserError as error:
        return Check("checkpoint", "not usable", str(error))
    sizes = f"{llava.text_config.num_hidden_layers} layers of width {llava.text_config.hidden_size}"
    return Check("checkpoint", f"{backbone.name}, {sizes}")


def _read_llava_config(backbone: config.Backbone) -> LlavaConfig:
    """Reads the checkpoint's config from a folder or the Hub.

    Raises UserError if it cannot be read, if it is not a LLaVA, if a folder has no weights, or if a
    Hub id is not pinned to a commit.
    """
    folder = Path(backbone.name)
    if folder.is_dir() or backbone.name.startswith(("backbones/", "/", ".")):
        _require_checkpoint_files(folder)
    elif not re.fullmatch(r"[0-9a-f]{40}", backbone.revision or ""):
        raise UserError(
            f"backbone.revision: is {backbone.revision or 'null'}, but the Hub id {backbone.name} "
            "must be pinned to a commit. Set it to the commit's 40 hexadecimal digits."
        )
    with explain_load_errors(backbone):
        values, _ = LlavaConfig.get_config_dict(backbone.name, revision=backbone.revision)
    if values.get("model_type") != "llava":
        raise UserError(
            f"backbone.name: {backbone.name} has model_type {values.get('model_type')!r}, but "
            "'llava' is needed. Choose a checkpoint with the architecture of LLaVA-1.5."
        )
    with explain_load_errors(backbone):
        llava = LlavaConfig.from_dict(values)
        _require_sizes(backbone.name, llava)
        if folder.is_dir() and "quantization_config" not in values:
            _require_stored_weights(folder, llava)
    return llava


def _require_stored_weights(folder: Path, llava: LlavaConfig) -> None:
    """Raises UserError when the files in `folder` hold fewer weights than `llava` describes.

    transformers would make the others at random, in memory of any size. It would also take whole
    numbers for weights as they are.
    """
    stored = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118, it is not a dict
                if name.endswith("position_ids"):  # old checkpoints have these numbers
                    continue
                stored += math.prod(file.get_slice(name).get_shape())
                if (dtype := file.get_slice(name).get_dtype()) not in FLOATS:
                    raise errors.damaged_backbone(
                        str(folder), f"has a tensor {name} of {dtype}, expected {', '.join(FLOATS)}"
                    )

    described = sum(parameter.numel() for parameter in _empty_model(llava).parameters())
    if described > stored:
        problem = f"holds {stored:,} weights, but its config.json describes {described:,}"
        raise errors.damaged_backbone(str(folder), problem)


def _empty_model(llava: LlavaConfig) -> LlavaForConditionalGeneration:
    """The model with shapes, but without weights."""
    with torch.device("meta"):
        return LlavaForConditionalGeneration(llava)


def _require_sizes(name: str, llava: LlavaConfig) -> None:
    """Raises UserError for sizes that no weights stand against: they alone could fill memory."""
    text, vision = llava.text_config, llava.vision_config
    for key, size, limit in (
        ("text_config.num_hidden_layers", text.num_hidden_layers, MAX_LAYERS),
        ("text_config.max_position_embeddings", text.max_position_embeddings, MAX_POSITIONS),
        ("vision_config.num_hidden_layers", vision.num_hidden_layers, MAX_LAYERS),
    ):
        if not 1 <= size <= limit:
            raise UserError(
                f"backbone.name: {name}: {key} in config.json is {size}, expected 1 to {limit}. "
                "Choose another checkpoint."
            )


def _require_checkpoint_files(folder: Path) -> None:
    require_regular_files(folder)
    missing = [name for name in ("config.json", "*.safetensors") if not any(folder.glob(name))]
    if missing:
        raise UserError(
            f"backbone.name: {folder}/{missing[0]} does not exist. "
            f"To restore tiny-llava, run `git checkout {TINY} && dvc pull {TINY}`. Or name another "
            "folder or a Hub id."
        )


def _check_memory(backbone: config.Backbone) -> Check:
    weights = weight_bytes(backbone, _read_llava_config(backbone))
    free, total = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # PyTorch's unused cache
    needed = f"{(weights + WORKSPACE) / GIB:.1f} GiB"
    available = f"{free / GIB:.1f} of {total / GIB:.1f} GiB"
    found = f"{available} free, the model needs {needed}"
    if free >= weights + WORKSPACE:
        return Check("GPU memory", found)
    if backbone.quantization in ("none", "fp8"):
        remedy = "Set backbone.quantization to nf4, free"
    elif backbone.unpacked:
        remedy = "Set backbone.unpacked to false, free"
    else:
        remedy = "Free"
    fault = (
        f"backbone.name: {backbone.name} needs {needed} of GPU memory, but {available} are free. "
        f"{remedy} some memory, or use a larger GPU."
    )
    return Check("GPU memory", found, fault)
