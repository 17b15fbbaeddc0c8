"""TRL's SFTTrainer from plain arguments."""

import sys
from collections.abc import Sequence
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
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    TrainerCallback,
    TrainerControl,
)
from trl import SFTConfig, SFTTrainer

from llava_dvc import config
from llava_dvc.errors import UserError
from llava_dvc.model import model_patches
from llava_dvc.model.adapter import peft_config
from llava_dvc.model.chat_template import IGNORED, Collator, longest, question_of, render_prompt
from llava_dvc.model.count_tree import CountTree
from llava_dvc.model.counting import ceiling, predict
from llava_dvc.model.fused_lora import fold_to_train
from llava_dvc.model.padding import one_size
from llava_dvc.training import losses
from llava_dvc.training.augment import mirrored, picture
from llava_dvc.training.checkpoint_selection import Validations, Weights, absolute_error
from llava_dvc.training.checkpoints import SealCheckpoint, StopOnSignal, last_checkpoint

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}
LORA_PLUS = 16.0  # how much faster lora_B learns than lora_A: arXiv 2402.12354


class Tuned(NamedTuple):
    """What a training ends in."""

    model: PeftModel
    weights: Weights
    """The adapter's, by the names of the model's parameters."""
    temperature: float
    """By which its distribution over counts is spread out."""


def fit(trainer: "CountTrainer") -> Tuned:
    """Train, and return the adapter that counted the validation frames best; goes on from the last
    whole checkpoint.
    """
    with PartialState().main_process_first():  # it deletes broken ones
        last = last_checkpoint(Path(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=last)
    PartialState().wait_for_everyone()
    found = trainer.validations
    weights, temperature = found.weights(), found.temperature()
    PartialState().wait_for_everyone()  # before the first of them clears up
    for name, parameter in trainer.model.named_parameters():
        if name in weights and not isinstance(parameter, DTensor):
            parameter.data.copy_(weights[name])
    return Tuned(trainer.model, weights, temperature)


def build_trainer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    train: Dataset,
    val: Dataset,
    adapter: config.Adapter,
    recipe: config.Train,
    *,
    seed: int,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> "CountTrainer":
    """The trainer, its adapter on the model, ready for its first step."""
    if processor.border:
        prompt = render_prompt(processor, train[0]["messages"])
        size = one_size(frame.size for frame in chain(train["image"], val["image"]))
        processor.border.settle(model, processor, prompt, size)
    length = longest(processor, train)
    rows = batch_share(recipe)
    recomputed = model_patches.checkpoints(recipe, model, rows * length)
    trainer = CountTrainer(
        model=model,
        args=_arguments(recipe, model, seed, checkpoints, rows, recomputed),
        data_collator=Collator(
            processor,
            length if recipe.compile else None,
            partial(picture, kinds=recipe.augment),
        ),
        train_dataset=mirrored(train) if "flip" in recipe.augment else train,
        eval_dataset=val,
        processing_class=processor,
        peft_config=peft_config(adapter, model),
        callbacks=[StopOnSignal(), SealCheckpoint(), Validate(recipe), *callbacks],
    )
    trainer.max_count = ceiling(train["count"])
    trainer.validations = Validations(checkpoints / "validation", np.array(val["count"]))
    trainer.lora_plus = adapter.method == "lora_plus"
    if recipe.loss != "ce":
        prompt = render_prompt(processor, train[0]["messages"])
        trainer.kind = recipe.loss
        trainer.tree = CountTree.build(processor, prompt, trainer.max_count).to(model.device)
    _make_fast(trainer, recipe)
    return trainer


def _make_fast(trainer: "CountTrainer", recipe: config.Train) -> None:
    """And precise: what TRL and transformers would do otherwise."""
    model = trainer.model.get_base_model()
    # TRL makes adapters of a 4-bit model bf16, in which a small learning rate moves few of their
    # entries.
    adapted = [(n, p) for n, p in trainer.model.named_parameters() if p.requires_grad]
    for _, parameter in adapted:
        parameter.data = parameter.data.float()
    if not any("vision_tower" in name for name, _ in adapted):
        model_patches.run_tower_without_graph(model)
    model_patches.trust_image_tokens(model.model)
    model_patches.number_on_the_host(model)
    if recipe.compile:
        model_patches.compile_layers(model, fold_to_train(model.model))


def batch_share(recipe: config.Train) -> int:
    """Rows of a batch that each process takes."""
    processes = PartialState().num_processes
    if recipe.batch_size % processes:
        raise UserError(
            f"train.batch_size: is {recipe.batch_size}, which {processes} processes cannot share "
            f"evenly; make it a multiple of {processes}"
        )
    return int(recipe.batch_size // processes)


class CountTrainer(SFTTrainer):
    """SFTTrainer with the loss on the answer alone and an evaluation that counts people."""

    max_count: int
    validations: Validations
    lora_plus: bool
    kind: str = "ce"
    tree: CountTree | None = None
    """Scored beside the answer, for the kinds of loss that need every count's probability."""
    control: TrainerControl
    optimizer: torch.optim.Optimizer | None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Cross-entropy summed over the answers' tokens, and what `train.loss` adds for every
        frame, over the number of tokens in the step.

        The head is applied to the last positions only, those that can have a label. Padding comes
        last, where causal attention lets nothing see it: no mask is needed.
        """
        names = ("labels", "counts", "answer_starts")
        labels, counts, starts = (inputs.pop(name) for name in names)
        kept = inputs["logits_to_keep"]
        if self.tree:
            inputs = self.tree.behind(inputs, starts, self.model.dtype)
        output = model(**inputs, use_cache=False)
        logits = output.logits[:, : kept - 1].float()
        answers = labels[:, 1 - kept :]
        total = cross_entropy(
            logits.flatten(0, 1), answers.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        if self.tree:
            ends = starts - 1 - (labels.shape[1] - kept)
            total = total + losses.of_counts(output.logits, ends, self.tree, counts, self.kind)
        if num_items_in_batch is None:
            loss = total / (answers != IGNORED).sum()
        else:  # of all processes, whose gradients will be averaged
            loss = total * self.accelerator.num_processes / num_items_in_batch
        return (loss, output) if return_outputs else loss

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """MAE in people on the validation frames, by the median of the distribution over counts."""
        val = self.eval_dataset
        question = question_of(val[0]["messages"])
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # compiled for training's shape alone
            answers = predict(
                self.model,
                self.processing_class,
                val["image"],
                question,
                self.max_count,
                self.args.eval_batch_size,
                stance="force_eager",
            )
        found = answers.probabilities
        weights = adapter_weights(self.model)  # of all processes that hold parts of them
        if self.is_world_process_zero():
            self.validations.add(self.state.global_step, found, weights)
        error = absolute_error(found, self.validations.counts)
        [error] = broadcast_object_list([error])  # all stop together, if they stop early
        metrics = {f"{metric_key_prefix}_mae": error}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def create_optimizer(self, model: Any = None) -> Any:
        """As Trainer does, or LoRA+: lora_A slower and lora_B faster than the learning rate, which
        is their geometric mean.
        """
        if self.lora_plus and self.optimizer is None:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = create_loraplus_optimizer(
                model or self.model,
                kind,
                **settings | {"lr": self.args.learning_rate / LORA_PLUS**0.5},
                loraplus_lr_ratio=LORA_PLUS,
                loraplus_weight_decay=self.args.weight_decay,
            )
        return super().create_optimizer(model)


def adapter_weights(model: Any) -> Weights:
    """Whole tensors on the CPU; with FSDP every process has to ask for them."""
    learnt = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    whole = {n: p.full_tensor() if isinstance(p, DTensor) else p for n, p in learnt.items()}
    return {name: tensor.to("cpu", copy=True) for name, tensor in whole.items()}


class Validate(TrainerCallback):
    """Has the validation frames counted every `train.validate_every` steps, and stops a training
    that has not improved for `train.patience` countings.
    """

    def __init__(self, recipe: config.Train) -> None:
        self.recipe = recipe

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        every = self.recipe.validate_every
        if every and state.global_step % every == 0:
            control.should_evaluate = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        counted = [entry["step"] for entry in state.log_history if "eval_mae" in entry]
        if counted[-1:] == [state.global_step]:
            control.should_evaluate = False

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        errors = [entry["eval_mae"] for entry in state.log_history if "eval_mae" in entry]
        waited = len(errors) - 1 - errors.index(min(errors))
        if self.recipe.patience and waited >= self.recipe.patience:
            control.should_training_stop = True


def is_main_process(device: str) -> bool:
    """Of all that `train.launcher` has started, the one that writes."""
    return bool(PartialState(cpu=device == "cpu").is_main_process)


def _arguments(
    recipe: config.Train,
    model: LlavaForConditionalGeneration,
    seed: int,
    folder: Path,
    rows: int,
    recomputed: bool,
) -> SFTConfig:
    on_cpu = model.device.type == "cpu"
    return SFTConfig(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        gradient_accumulation_steps=recipe.accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        optim=OPTIMIZERS[recipe.optimizer],
        gradient_checkpointing=recomputed,
        gradient_checkpointing_kwargs={"use_reentrant": False} if recomputed else None,
        dataloader_num_workers=recipe.workers,
        dataloader_persistent_workers=recipe.workers > 0,
        accelerator_config={"non_blocking": True},
        use_cpu=on_cpu,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        max_length=None,  # truncation could drop some of a frame's image tokens
        remove_unused_columns=False,  # the collator reads the messages
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=recipe.save_every,
        save_total_limit=2,
        logging_steps=1 if on_cpu else 10,  # to log, a GPU has to be waited for
        logging_nan_inf_filter=False,  # it waits in every step
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        report_to="none",  # our own callback reports
        disable_tqdm=not sys.stderr.isatty(),
    )
