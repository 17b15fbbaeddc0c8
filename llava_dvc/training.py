"""TRL's SFTTrainer from plain arguments."""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, concatenate_datasets
from peft import LoraConfig, PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import (
    LlavaForConditionalGeneration,
    LlavaProcessor,
    TrainerCallback,
    TrainerControl,
)
from trl import SFTConfig, SFTTrainer

from llava_dvc import config, losses, preflight, speed
from llava_dvc.border import one_size
from llava_dvc.checkpoints import SealCheckpoint, StopOnSignal, last_checkpoint
from llava_dvc.config import UserError
from llava_dvc.conversation import IGNORED, Collator, longest, question_of, render_prompt
from llava_dvc.counting import CountTree, ceiling, predict, quantile, with_tree

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}


def fit(trainer: "CountTrainer", asked: preflight.Asked) -> PeftModel:
    """Train the adapter and return its model; goes on from the last whole checkpoint. Raises
    UserError before the first step when the model is not what was `asked`.
    """
    preflight.require(trainer, asked)
    with PartialState().main_process_first():  # it deletes broken ones
        last = last_checkpoint(Path(trainer.args.output_dir))
    trainer.train(resume_from_checkpoint=last)
    return trainer.model


def build_trainer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    train: Dataset,
    val: Dataset,
    peft_config: LoraConfig,
    recipe: config.Train,
    *,
    seed: int,
    checkpoints: Path,
    callbacks: Sequence[TrainerCallback] = (),
) -> "CountTrainer":
    """The trainer, its adapter on the model, ready for its first step."""
    if processor.border:
        prompt = render_prompt(processor, train[0]["messages"])
        size = one_size(chain(train["image"], val["image"]))
        processor.border.settle(model, processor, prompt, size)
    length = longest(processor, train)
    rows = batch_share(recipe)
    recomputed = speed.checkpoints(recipe, model, rows * length)
    trainer = CountTrainer(
        model=model,
        args=_arguments(recipe, model, seed, checkpoints, rows, recomputed),
        data_collator=Collator(processor, length if recipe.compile else None),
        train_dataset=mirrored(train) if recipe.augment == "flip" else train,
        eval_dataset=val,
        processing_class=processor,
        peft_config=peft_config,
        callbacks=[StopOnSignal(), SealCheckpoint(), *callbacks],
    )
    trainer.max_count = ceiling(train["count"])
    if recipe.loss != "ce":
        prompt = render_prompt(processor, train[0]["messages"])
        trainer.kind = recipe.loss
        trainer.tree = CountTree.build(processor, prompt, trainer.max_count)
    # TRL makes adapters of a 4-bit model bf16, in which a small learning rate moves few of their
    # entries.
    adapted = [(n, p) for n, p in trainer.model.named_parameters() if p.requires_grad]
    for _, parameter in adapted:
        parameter.data = parameter.data.float()
    if not any("vision_tower" in name for name, _ in adapted):
        speed.run_tower_without_graph(model)
    speed.trust_image_tokens(model)
    speed.number_on_the_host(model)
    if recipe.compile:
        speed.compile_layers(model)
    return trainer


def batch_share(recipe: config.Train) -> int:
    """Rows of a batch that each process takes."""
    processes = PartialState().num_processes
    if recipe.batch_size % processes:
        raise UserError(
            f"train.batch_size: is {recipe.batch_size}, which {processes} processes cannot share "
            f"evenly; make it a multiple of {processes}"
        )
    return int(recipe.batch_size // processes)


def mirrored(rows: Dataset) -> Dataset:
    """Every row twice, the second time to be seen in a mirror: as many people, another picture.

    Rows of their own, not a coin toss at loading: an epoch is the same whatever it is resumed from.
    """
    sides = [rows.add_column("mirror", [side] * len(rows)) for side in (False, True)]
    return concatenate_datasets(sides)


class CountTrainer(SFTTrainer):
    """SFTTrainer with the loss on the answer alone and an evaluation that counts people."""

    max_count: int
    kind: str = "ce"
    tree: CountTree | None = None
    """Scored beside the answer, for the kinds of loss that need every count's probability."""
    control: TrainerControl

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
            inputs = with_tree(inputs, starts, self.tree, self.model.dtype)
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
        error = np.abs(quantile(answers.probabilities, 0.5) - np.array(val["count"]))
        metrics = {f"{metric_key_prefix}_mae": float(error.mean())}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics


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
