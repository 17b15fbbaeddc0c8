"""Finds which tensors get a gradient in two backward passes, and restores the trainer."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from trl import SFTTrainer

from llava_dvc.errors import UserError
from llava_dvc.model.encoder import Batch
from llava_dvc.training.points import POINT_HEAD

LORA_B_NOISE = 0.01  # standard deviation
CHUNK = 2**24  # bytes to sum at once; the sum needs eight times their memory


@dataclass(frozen=True)
class GradientReport:
    """What two backward passes do to a model's tensors."""

    adapters: int
    """Number of adapter tensors."""
    without_gradient: list[str]
    """Adapter tensors whose gradient is missing, all 0 or not finite."""
    unfrozen: list[str]
    """Other tensors that require or get a gradient."""
    changed: list[str]
    """Other tensors whose values change."""
    tower_in_graph: bool
    """Whether the backward pass goes through the vision tower."""


def gradient_report(trainer: SFTTrainer, batch: Batch) -> GradientReport:
    """Runs two forward and backward passes on `batch`.

    lora_B starts at 0, and lora_A has no gradient while lora_B is 0. So lora_B and DoRA's magnitude
    must get a gradient in the first pass. lora_A must get one in the second pass, after noise is
    added to lora_B.
    """
    adapters = trained_tensors(trainer.model)
    others = {n: p for n, p in trainer.model.named_parameters() if n not in adapters}
    before = {name: _byte_sum(parameter) for name, parameter in others.items()}
    lora_b = [parameter for name, parameter in adapters.items() if "lora_B" in name]
    with _restored(trainer, lora_b), _recorded_tower_graphs(trainer.model) as graphs:
        first = _names_with_gradient(trainer, batch, adapters)
        for parameter in lora_b:
            parameter.data.add_(LORA_B_NOISE * torch.randn_like(parameter))
        second = _names_with_gradient(trainer, batch, adapters)
        unfrozen = [n for n, p in others.items() if p.requires_grad or p.grad is not None]
    return GradientReport(
        adapters=len(adapters),
        without_gradient=[n for n in adapters if n not in (second if "lora_A" in n else first)],
        unfrozen=unfrozen,
        changed=[name for name, p in others.items() if _byte_sum(p) != before[name]],
        tower_in_graph=any(graphs),
    )


def trained_tensors(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's tensors, and those of the point head."""
    trained = ("lora_", POINT_HEAD)
    return {n: p for n, p in model.named_parameters() if any(part in n for part in trained)}


def _names_with_gradient(
    trainer: SFTTrainer, batch: Batch, adapters: dict[str, nn.Parameter]
) -> set[str]:
    """Returns the adapter tensors that get a gradient in one pass, computed as in training."""
    model = trainer.model
    model.zero_grad(set_to_none=True)
    try:
        with trainer.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
            loss = trainer.compute_loss(model, trainer._prepare_inputs(dict(batch)))
        loss.backward()
    except torch.OutOfMemoryError:
        raise UserError(
            "train.checkpointing: a batch of two rows does not fit into GPU memory. "
            "Set train.checkpointing to true, backbone.quantization to nf4 and backbone.unpacked "
            "to false, or use a larger GPU."
        ) from None
    return {name for name, parameter in adapters.items() if _is_usable(parameter.grad)}


def _is_usable(gradient: Tensor | None) -> bool:
    """Whether there is a gradient that is finite and not all 0."""
    return gradient is not None and bool(gradient.isfinite().all() and gradient.any())


@contextmanager
def _restored(trainer: SFTTrainer, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Sets the model to training mode. On exit restores random state, `parameters`, gradients and
    modes, also after an error.
    """
    model = trainer.model
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices), ExitStack() as on_exit:
        on_exit.callback(model.zero_grad, set_to_none=True)
        for parameter in parameters:
            on_exit.callback(parameter.data.copy_, parameter.detach().clone())
        for module in model.modules():
            on_exit.callback(setattr, module, "training", module.training)
        model.train()
        yield


@contextmanager
def _recorded_tower_graphs(model: Any) -> Iterator[list[bool]]:
    """Yields a list. Each forward pass appends whether the tower's output requires a gradient."""
    graphs: list[bool] = []

    def record_graph(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs = [output.last_hidden_state, *(output.hidden_states or ())]
        graphs.append(any(tensor is not None and tensor.requires_grad for tensor in outputs))

    hook = model.get_base_model().model.vision_tower.register_forward_hook(record_graph)
    try:
        yield graphs
    finally:
        hook.remove()


def _byte_sum(parameter: nn.Parameter) -> int:
    """Returns the sum of the tensor's bytes: a change shows without a copy of the tensor."""
    chunks = torch.split(parameter.detach().flatten().view(torch.uint8), CHUNK)
    return int(torch.stack([chunk.sum(dtype=torch.int64) for chunk in chunks]).sum())
