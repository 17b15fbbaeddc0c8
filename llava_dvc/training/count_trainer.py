"""TRL's SFTTrainer for counting: its data, its loss, and an evaluation that counts people."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftModel
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import cross_entropy
from transformers import LlavaForConditionalGeneration, TrainerCallback, TrainerControl
from transformers.trainer_callback import PrinterCallback
from trl import SFTTrainer

from llava_dvc import config, errors
from llava_dvc.conversation import question_text
from llava_dvc.model.adapter import Weights, keep_float32, peft_config
from llava_dvc.model.calibration import fit_temperature
from llava_dvc.model.counting import Answers, CountPredictor, Floats, default_max_count
from llava_dvc.model.cuda_recorder import CudaRecorder
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.padding import drop_padding, require_one_size
from llava_dvc.model.smoothing import find_sequences, fit_smoothing, label_steps
from llava_dvc.model.tiles import tile_sizes
from llava_dvc.recipe import Smoothing
from llava_dvc.training.arguments import batch_share, training_arguments
from llava_dvc.training.augment import augmented_image, augmented_points, augmented_rows
from llava_dvc.training.checkpoint_selection import CheckpointSelection, median_error
from llava_dvc.training.checkpoints import SealCheckpoint, StopOnSignal, last_checkpoint
from llava_dvc.training.collator import IGNORED, Collator, batch_shape, image_sizes
from llava_dvc.training.losses import count_loss
from llava_dvc.training.points import (
    POINT_HEAD,
    WEIGHTS,
    PointHead,
    add_point_head,
    have_points,
    remove_point_head,
)
from llava_dvc.training.recomputing import fit_into_memory
from llava_dvc.training.recorded_step import Losses, RecordedStep, Step
from llava_dvc.training.speed import can_be_recorded, speed_up
from llava_dvc.training.tile_rows import with_tiles

LORA_PLUS = 16.0  # ratio of lora_B's learning rate to lora_A's: arXiv 2402.12354


@dataclass(frozen=True)
class TrainingSpec:
    """Everything that decides a training, except the backbone and its encoder."""

    train: Dataset
    val: Dataset
    adapter: config.Adapter
    settings: config.Train
    seed: int
    checkpoints: Path
    """The checkpoint folder. No other training uses it."""
    callbacks: Sequence[TrainerCallback] = ()


class TunedAdapter(NamedTuple):
    """The result of a training."""

    model: PeftModel
    weights: Weights
    temperature: float
    """Calibrates its distribution over counts."""
    smoothing: Smoothing | None
    """Combines neighbouring frames. None if there are none to fit it on."""
    recomputed_layers: int
    """Layers of the language model that the backward pass computed again."""


class CountTrainer(SFTTrainer):
    """Puts the adapter on a backbone and trains it. Once built, it is ready for its first step."""

    control: TrainerControl
    optimizer: torch.optim.Optimizer | None

    def __init__(
        self, backbone: LlavaForConditionalGeneration, encoder: Encoder, spec: TrainingSpec
    ) -> None:
        """Raises UserError if padding is dropped and frame sizes differ, if processes cannot share
        a batch evenly, if the tokenizer joins prompt and answer, if no adapter can learn from
        the points, or if tiles need points and there are none.
        """
        settings, frames = spec.settings, spec.train
        tiles = with_tiles(augmented_rows(frames, settings), encoder.tiles)
        points = _learns_points(spec)
        _fit_to_frames(backbone, encoder, spec)
        shape = batch_shape(encoder, frames)
        super().__init__(
            model=backbone,
            args=training_arguments(settings, backbone, spec.seed, spec.checkpoints),
            data_collator=Collator(
                encoder,
                shape if settings.compile else None,
                partial(augmented_image, kinds=settings.augment),
                partial(augmented_points, kinds=settings.augment) if points else None,
            ),
            train_dataset=tiles,
            eval_dataset=spec.val,
            processing_class=encoder.processor,
            peft_config=peft_config(spec.adapter, backbone),
            callbacks=[StopOnSignal(), SealCheckpoint(), Validate(settings), *spec.callbacks],
        )
        self.remove_callback(PrinterCallback)  # it prints a dictionary at every step
        self.spec, self.encoder = spec, encoder
        self.selection = CheckpointSelection(
            spec.checkpoints / "validation", np.array(spec.val["count"])
        )
        self.predictor = CountPredictor(
            self.model,
            encoder,
            question_text(spec.val[0]["messages"]),
            default_max_count(frames["count"]),
            eager=True,
        )
        keep_float32(self.model)
        speed_up(backbone, settings)
        rows, length = batch_share(settings), shape.length
        self.recomputed_layers = fit_into_memory(settings, spec.adapter, backbone, rows, length)
        self.point_head: PointHead | None = self._new_point_head() if points else None
        self._point_losses: list[Tensor] = []
        self._step: Step | None = None

    def _new_point_head(self) -> PointHead:
        padding = self.encoder.padding(self.train_dataset[0]["image"].size)
        tokens = self.encoder.grid**2 - (padding.dropped if padding else 0)
        tiles = self.encoder.tiles[0] * self.encoder.tiles[1]
        people = float(np.mean(self.spec.train["count"][:])) / tiles
        return add_point_head(self.model, people, tokens)

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward pass. On a GPU a CUDA graph does both, if that is possible."""
        if not self._step:
            self._step = partial(self._pass, model)
            if can_be_recorded(self.spec.settings, self.spec.adapter, self.model):
                learnt = [p for p in model.parameters() if p.requires_grad]
                self._step = RecordedStep(self._step, learnt, lambda run: CudaRecorder()(run))
        loss, *of_points = self._step(inputs, num_items_in_batch)
        self._point_losses += of_points
        return loss

    def _pass(self, model: Any, inputs: dict[str, Any], tokens: Any) -> Losses:
        """The loss, and that of the points if there are any."""
        loss = super().training_step(model, inputs, tokens)
        return (loss, self._of_points) if self.point_head else (loss,)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy summed over the answers' tokens, plus what `train.loss` adds for every
        frame, divided by the number of answer tokens in the step; plus `train.points` times the
        loss on the points, as the mean over the step's frames.
        """
        density = inputs.pop("density", None)
        total, tokens, output = self._answer_loss(model, inputs)
        if num_items_in_batch is None:
            loss, share = total / tokens, 1.0
        else:  # tokens of all processes, but gradients are averaged
            loss = total * self.accelerator.num_processes / num_items_in_batch
            share = 1 / getattr(self, "current_gradient_accumulation_steps", 1)
        if self.point_head:
            of_points = self.point_head.loss(density)
            self._of_points = of_points.detach()
            loss = loss + self.spec.settings.points * share * of_points
        return (loss, output) if return_outputs else loss

    def _answer_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[Tensor, Tensor, Any]:
        """The loss of all answers, summed; their number of tokens; and the model's output.

        Applies `lm_head` only to the last positions, those that can have a label. Padding is on the
        right: causal attention needs no mask for it.
        """
        names = ("labels", "counts", "answer_starts")
        labels, counts, starts = (inputs.pop(name) for name in names)
        kept = inputs["logits_to_keep"]
        tree = None if self.spec.settings.loss == "ce" else self.predictor.tree
        if tree:
            inputs = tree.append_to(inputs, starts, self.model.dtype)
        output = model(**inputs, use_cache=False)
        logits = output.logits[:, : kept - 1].float()
        answers = labels[:, 1 - kept :]
        total = cross_entropy(
            logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        if tree:
            ends = starts - 1 - (labels.shape[1] - kept)
            total = total + count_loss(output.logits, ends, tree, counts, self.spec.settings.loss)
        return total, (answers != IGNORED).sum(), output

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds `points_loss` to the training's losses: its mean since the last log."""
        if "loss" in logs and self._point_losses:
            logs["points_loss"] = float(torch.stack(self._point_losses).mean())
            self._point_losses.clear()
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.point_head:
            folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            self.point_head.save(folder / WEIGHTS, write=self.is_world_process_zero())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.point_head:
            self.point_head.load(Path(resume_from_checkpoint) / WEIGHTS)

    def count(self, frames: Any) -> Answers:
        """The answers for frames. The recorded step is forgotten if they need its memory."""
        count = partial(self.predictor.predict, frames, self.args.eval_batch_size)
        return self._step.beside(count) if isinstance(self._step, RecordedStep) else count()

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """MAE in people on the validation frames, by the median of the distribution over counts."""
        self.model.eval()
        self.predictor.model = self.model  # FSDP may have wrapped it
        answers = self.count(self.spec.val["image"])
        weights = adapter_weights(self.model)  # all processes call this: each may hold a part
        if self.is_world_process_zero():
            self.selection.add(self.state.global_step, answers.probabilities, weights)
        error = median_error(answers.probabilities, self.selection.counts)
        [error] = broadcast_object_list([error])  # all processes stop early together
        metrics = {f"{metric_key_prefix}_mae": error}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def create_optimizer(self, model: Any = None) -> Any:
        """The Trainer's optimizer, or LoRA+: lora_A gets a quarter of the learning rate, lora_B
        four times it.
        """
        if self.spec.adapter.method == "lora_plus" and self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                model or self.model,
                kind,
                **settings | {"lr": self.args.learning_rate / LORA_PLUS**0.5},
                loraplus_lr_ratio=LORA_PLUS,
                loraplus_weight_decay=self.args.weight_decay,
            )
        return super().create_optimizer(model)


def fit(trainer: CountTrainer) -> TunedAdapter:
    """Trains, and returns the adapter that counted the validation frames best. Resumes from the
    last complete checkpoint.
    """
    with PartialState().main_process_first():  # last_checkpoint deletes incomplete ones
        last = last_checkpoint(Path(trainer.args.output_dir))
    if trainer.spec.settings.checkpointing is not False and trainer.is_world_process_zero():
        layers = len(trainer.model.get_base_model().model.language_model.layers)
        sys.stderr.write(errors.recomputing(trainer.recomputed_layers, layers))
    trainer.train(resume_from_checkpoint=last)
    PartialState().wait_for_everyone()
    weights, mass = trainer.selection.weights(), trainer.selection.distributions()
    PartialState().wait_for_everyone()  # all have read the weights before the folder is removed
    remove_point_head(trainer.model)
    for name, parameter in trainer.model.named_parameters():
        if name in weights and not isinstance(parameter, DTensor):
            parameter.data.copy_(weights[name])
    temperature = fit_temperature(mass, trainer.selection.counts)
    smoothing = _fit_smoothing(trainer.spec, mass)
    return TunedAdapter(trainer.model, weights, temperature, smoothing, trainer.recomputed_layers)


def adapter_weights(model: Any) -> Weights:
    """The adapter's full tensors on the CPU. With FSDP every process must call this."""
    named = model.named_parameters()
    learnt = {n: p.detach() for n, p in named if p.requires_grad and POINT_HEAD not in n}
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in learnt.items()}
    return {name: tensor.to("cpu", copy=True) for name, tensor in whole.items()}


class Validate(TrainerCallback):
    """Evaluates every `train.validate_every` steps. Stops a training that has not improved for
    `train.patience` evaluations.
    """

    def __init__(self, settings: config.Train) -> None:
        self.settings = settings

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self.settings.validate_every
        if every and state.global_step % every == 0:
            control.should_evaluate = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        evaluated = [entry["step"] for entry in state.log_history if "eval_mae" in entry]
        if evaluated[-1:] == [state.global_step]:
            control.should_evaluate = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        errors = [entry["eval_mae"] for entry in state.log_history if "eval_mae" in entry]
        waited = len(errors) - 1 - errors.index(min(errors))
        if self.settings.patience and waited >= self.settings.patience:
            control.should_training_stop = True


def _fit_smoothing(spec: TrainingSpec, mass: Floats) -> Smoothing | None:
    """`mass` are the distributions of the validation frames."""
    train, val = (
        find_sequences(rows["frame"][:], rows["camera"][:]) for rows in (spec.train, spec.val)
    )
    return fit_smoothing(
        label_steps(spec.train["count"][:], train), mass, spec.val["count"][:], val
    )


def _fit_to_frames(
    backbone: LlavaForConditionalGeneration, encoder: Encoder, spec: TrainingSpec
) -> None:
    """If `image.drop_border` is true: requires one frame size, and drops its padding tokens."""
    if encoder.drops_padding:
        frames = chain(image_sizes(spec.train), image_sizes(spec.val))
        sizes = chain.from_iterable(tile_sizes(size, encoder.tiles) for size in frames)
        size = require_one_size(sizes, encoder.tiles)
        drop_padding(backbone, encoder.padding(size))


def _learns_points(spec: TrainingSpec) -> bool:
    """Whether there are points to learn from. Raises UserError if only the point head could."""
    points, adapter = spec.settings.points, spec.adapter
    if not points or not have_points(spec.train):
        return False
    if not (adapter.projector or adapter.vision):
        raise errors.points_without_vision(points)
    return True
