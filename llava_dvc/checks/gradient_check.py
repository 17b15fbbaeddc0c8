"""Two backward passes that tell where gradients go, and leave nothing behind."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from trl import SFTTrainer

from llava_dvc.errors import UserError
from llava_dvc.model.encoder import Batch

NUDGE = 0.01  # lora_B starts at 0, and while it is 0 lora_A has no gradient
CHUNK = 2**24  # bytes, which become eight times as many while they are summed


@dataclass(frozen=True)
class Passes:
    """What two backward passes showed, by names of tensors."""

    adapters: int
    """How many tensors the adapters have."""
    silent: list[str]
    """Of these, those without a gradient, or with one that is not finite."""
    strays: list[str]
    """Others that require or got a gradient."""
    changed: list[str]
    """Others whose values changed."""
    through_tower: bool
    """Whether the vision tower's output has a graph to go backward through."""


def run_passes(trainer: SFTTrainer, batch: Batch) -> Passes:
    """Two forward and backward passes: lora_B (and DoRA's magnitude) must get a gradient in the
    first, lora_A in the second, before which every lora_B is moved off 0.
    """
    adapters = adapter_tensors(trainer.model)
    others = {n: p for n, p in trainer.model.named_parameters() if n not in adapters}
    before = {name: _sum_of_bytes(parameter) for name, parameter in others.items()}
    second = [parameter for name, parameter in adapters.items() if "lora_B" in name]
    with _without_trace(trainer, second), _tower_graphs(trainer.model) as graphs:
        alive = _with_gradient(trainer, batch, adapters)
        alive = {name for name in alive if "lora_A" not in name}
        for parameter in second:
            parameter.data.add_(NUDGE * torch.randn_like(parameter))
        alive |= {n for n in _with_gradient(trainer, batch, adapters) if "lora_A" in n}
        strays = [n for n, p in others.items() if p.requires_grad or p.grad is not None]
    return Passes(
        adapters=len(adapters),
        silent=[name for name in adapters if name not in alive],
        strays=strays,
        changed=[name for name, p in others.items() if _sum_of_bytes(p) != before[name]],
        through_tower=any(graphs),
    )


def adapter_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def _with_gradient(
    trainer: SFTTrainer, batch: Batch, adapters: dict[str, nn.Parameter]
) -> set[str]:
    """Names of the tensors that one forward and backward pass, as in training, gives a gradient."""
    model = trainer.model
    model.zero_grad(set_to_none=True)
    try:
        with trainer.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            loss = trainer.compute_loss(model, trainer._prepare_inputs(dict(batch)))
        loss.backward()
    except torch.OutOfMemoryError:
        raise UserError(
            "train.checkpointing: two rows do not fit into the GPU's memory; set it to true, "
            "backbone.quantization to nf4 and backbone.unpacked to false, or use a larger GPU"
        ) from None
    return {name for name, parameter in adapters.items() if _is_sound(parameter.grad)}


def _is_sound(gradient: Tensor | None) -> bool:
    return gradient is not None and bool(gradient.isfinite().all() and gradient.any())


def recompute(trainer: SFTTrainer) -> None:
    """Turn checkpointing on as Trainer's start does, less the hooks that would leave behind."""
    kept = partial(checkpoint, **trainer.args.gradient_checkpointing_kwargs)
    trainer.model.get_base_model()._set_gradient_checkpointing(True, kept)


@contextmanager
def _without_trace(trainer: SFTTrainer, moved: Iterable[nn.Parameter]) -> Iterator[None]:
    """In training's mode; then put back random numbers, the `moved` tensors, gradients and modes,
    also after an error.
    """
    model, args = trainer.model, trainer.args
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), ExitStack() as after:
        after.callback(model.zero_grad, set_to_none=True)
        for parameter in moved:
            after.callback(parameter.data.copy_, parameter.detach().clone())
        for module in model.modules():
            after.callback(setattr, module, "training", module.training)
        model.train()
        if args.gradient_checkpointing:
            recompute(trainer)
            after.callback(model.get_base_model()._set_gradient_checkpointing, False)
        yield


@contextmanager
def _tower_graphs(model: Any) -> Iterator[list[bool]]:
    """A list that every pass extends by whether the tower's output requires a gradient."""
    graphs: list[bool] = []

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs = [output.last_hidden_state, *(output.hidden_states or ())]
        graphs.append(any(tensor is not None and tensor.requires_grad for tensor in outputs))

    hook = model.get_base_model().model.vision_tower.register_forward_hook(look)
    try:
        yield graphs
    finally:
        hook.remove()


def _sum_of_bytes(parameter: nn.Parameter) -> int:
    """Another number for other values, without a copy of them."""
    chunks = torch.split(parameter.detach().flatten().view(torch.uint8), CHUNK)
    return int(torch.stack([chunk.sum(dtype=torch.int64) for chunk in chunks]).sum())
