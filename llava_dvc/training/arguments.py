"""The `train` section as TRL's arguments."""

from pathlib import Path

import torch
from accelerate import PartialState
from transformers import LlavaForConditionalGeneration
from trl import SFTConfig

from llava_dvc import config, errors

OPTIMIZERS = {"adamw": "adamw_torch_fused", "adamw_8bit": "adamw_bnb_8bit"}


def batch_share(settings: config.Train) -> int:
    """Rows of a batch for each process. Raises UserError when they cannot share it evenly."""
    processes = PartialState().num_processes
    if settings.batch_size % processes:
        raise errors.uneven_batch(settings.batch_size, processes)
    return int(settings.batch_size // processes)


def is_main_process(device: str) -> bool:
    """True for the one process that writes files, of all that `train.launcher` starts."""
    return bool(PartialState(cpu=device == "cpu").is_main_process)


def training_arguments(
    settings: config.Train,
    model: LlavaForConditionalGeneration,
    seed: int,
    folder: Path,
) -> SFTConfig:
    """`folder` takes the checkpoints. `recompute_layers` does the gradient checkpointing."""
    on_cpu, rows = model.device.type == "cpu", batch_share(settings)
    return SFTConfig(
        output_dir=str(folder),
        seed=seed,
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=rows,
        per_device_eval_batch_size=rows,
        gradient_accumulation_steps=settings.accumulation,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.scheduler,
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        optim=OPTIMIZERS[settings.optimizer],
        gradient_checkpointing=False,
        dataloader_num_workers=settings.workers,
        dataloader_persistent_workers=settings.workers > 0,
        accelerator_config={"non_blocking": True},
        use_cpu=on_cpu,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        max_length=None,  # truncation could drop some of a frame's image tokens
        remove_unused_columns=False,  # the collator reads the messages
        dataset_kwargs={"skip_prepare_dataset": True},
        eval_strategy="epoch",
        save_strategy="steps",
        save_steps=settings.save_every,
        save_total_limit=2,
        logging_steps=1 if on_cpu else 10,  # every log waits for the GPU
        logging_nan_inf_filter=False,  # it waits for the GPU in every step
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        report_to="none",  # our own callback reports
        disable_tqdm=True,  # and no bar of its own: see llava_dvc/terminal
    )
