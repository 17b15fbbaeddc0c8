"""What `backbone` asks for against what is here: device, number format, checkpoint, memory."""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.load_errors import one_line

GIB = 2**30
WORKSPACE = 2 * GIB  # CUDA's own context, an adapter and the activations of a small batch
NF4 = 0.516  # bytes a weight: 4 bits, and its share of the doubly quantised scales
CPU_INFO = Path("/proc/cpuinfo")
UNITS = {"bfloat16": ("bf16",), "float16": ("fp16", "asimdhp")}  # in the processor's flags


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what is wrong with it."""

    name: str
    found: str
    fault: str | None = None
    """One line: the setting, its value, what to do. A training does not start with one."""
    note: str | None = None
    """A choice with a cost, which stops nothing."""


def require_hardware(backbone: config.Backbone) -> None:
    """Raises UserError with the first reason why `backbone` cannot be loaded here."""
    raise_first_fault(inspect(backbone))


def raise_first_fault(checks: Iterable[Check]) -> None:
    """Raises UserError with the first fault, if there is one."""
    for check in checks:
        if check.fault:
            raise UserError(check.fault)


def inspect(backbone: config.Backbone) -> Iterator[Check]:
    """Everything that can be known before the weights are loaded."""
    device = _device(backbone)
    yield device
    if not device.fault:
        yield _dtype(backbone)
    checkpoint = _checkpoint(backbone)
    yield checkpoint
    if backbone.device == "cuda" and not device.fault and not checkpoint.fault:
        yield _memory(backbone)


def weight_bytes(backbone: config.Backbone, llava: LlavaConfig) -> int:
    """What the weights take on the device, from their shapes alone."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(llava)
    weights = sum(parameter.numel() for parameter in model.parameters())
    layers = model.model.language_model.layers.modules()
    linear = sum(m.weight.numel() for m in layers if isinstance(m, nn.Linear))
    width = getattr(torch, backbone.dtype).itemsize
    if backbone.quantization == "none":
        return int(weights * width)
    packed = NF4 + width * backbone.unpacked
    return int((weights - linear) * width + linear * packed)


def _device(backbone: config.Backbone) -> Check:
    if backbone.device == "cpu":
        return Check("device", f"cpu, {backbone.threads} threads on {os.cpu_count()} cores")
    if not torch.cuda.is_available():
        fault = (
            "backbone.device: is cuda, but PyTorch sees no CUDA device here; "
            "use a GPU machine, or `llava-dvc preset tiny` for a CPU"
        )
        return Check("device", "no CUDA device", fault)
    return Check("device", torch.cuda.get_device_name())


def _dtype(backbone: config.Backbone) -> Check:
    found = fault = note = None
    if backbone.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        found = f"{backbone.dtype}, compute capability {major}.{minor}"
        if backbone.dtype == "bfloat16" and major < 8:
            fault = (
                f"backbone.dtype: is bfloat16, but {torch.cuda.get_device_name()} has compute "
                f"capability {major}.{minor} and bfloat16 needs 8.0; set it to float16"
            )
    elif backbone.dtype != "float32" and not _cpu_computes(backbone.dtype):
        note = (
            f"backbone.dtype: is {backbone.dtype}, for which this CPU has no units; "
            "float32 is faster here"
        )
    return Check("number format", found or backbone.dtype, fault, note)


def _cpu_computes(dtype: str) -> bool:
    """Whether the processor multiplies matrices in a 16-bit format; no answer counts as yes."""
    try:
        flags = CPU_INFO.read_text()
    except OSError:
        return True
    return any(unit in flags for unit in UNITS[dtype])


def _checkpoint(backbone: config.Backbone) -> Check:
    try:
        llava = _read_config(backbone)
    except UserError as error:
        return Check("checkpoint", "not usable", str(error))
    sizes = f"{llava.text_config.num_hidden_layers} layers of width {llava.text_config.hidden_size}"
    return Check("checkpoint", f"{backbone.name}, {sizes}")


def _read_config(backbone: config.Backbone) -> LlavaConfig:
    """Fetched from the Hub if need be; raises UserError when it or a local folder's weights are not
    there.
    """
    folder = Path(backbone.name)
    if folder.is_dir() or backbone.name.startswith(("backbones/", "/", ".")):
        _require_files(folder)
    elif not re.fullmatch(r"[0-9a-f]{40}", backbone.revision or ""):
        raise UserError(
            f"backbone.revision: is {backbone.revision or 'null'}, and what a Hub name or branch "
            f"stands for can change; pin {backbone.name} to a commit, 40 hexadecimal digits"
        )
    with one_line(backbone):
        values, _ = LlavaConfig.get_config_dict(backbone.name, revision=backbone.revision)
    if values.get("model_type") != "llava":
        raise UserError(
            f"backbone.name: {backbone.name} has model_type {values.get('model_type')!r}, "
            "expected 'llava'; choose a LLaVA-1.5-shaped checkpoint"
        )
    return LlavaConfig.from_dict(values)


def _require_files(folder: Path) -> None:
    missing = [name for name in ("config.json", "*.safetensors") if not any(folder.glob(name))]
    if missing:
        raise UserError(
            f"backbone.name: {folder}/{missing[0]} is not there; "
            "run `dvc pull backbones/tiny-llava.dvc`, or name another folder or a Hub id"
        )


def _memory(backbone: config.Backbone) -> Check:
    weights = weight_bytes(backbone, _read_config(backbone))
    free, total = torch.cuda.mem_get_info()
    free += torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # PyTorch's own reserve
    needed = f"{(weights + WORKSPACE) / GIB:.1f} GiB"
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free, the model needs {needed}"
    if free >= weights + WORKSPACE:
        return Check("GPU memory", found)
    remedies = []
    if backbone.quantization == "none":
        remedies.append("set backbone.quantization to nf4")
    elif backbone.unpacked:
        remedies.append("set backbone.unpacked to false")
    remedy = ", or ".join([*remedies, "free some, or use a larger GPU"])
    fault = (
        f"backbone.name: {backbone.name} needs {needed} of GPU memory, "
        f"{free / GIB:.1f} of {total / GIB:.1f} GiB are free; {remedy}"
    )
    return Check("GPU memory", found, fault)
