"""Tunes a LoRA adapter on the backbone: models/adapter/."""

from dataclasses import replace
from pathlib import Path

from datasets import concatenate_datasets

from llava_dvc.checks.hardware import require_hardware
from llava_dvc.checks.label_range import require_label_range
from llava_dvc.checks.preflight import RequestedModel, require_model
from llava_dvc.config import Config
from llava_dvc.conversation import question_text
from llava_dvc.dataset import load_split
from llava_dvc.files import new_folder, read_json
from llava_dvc.model.adapter import save_adapter
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import default_max_count
from llava_dvc.recipe import LARGEST_COUNT, Recipe, adapter_sha256, versions
from llava_dvc.stage_runner import run_stage
from llava_dvc.terminal.training_progress import TrainingProgress
from llava_dvc.tracking.run import open_run, trainer_callback
from llava_dvc.training.arguments import is_main_process
from llava_dvc.training.checkpoint_copies import checkpoint_copies
from llava_dvc.training.checkpoints import checkpoint_folder, checkpoints_of, run_key
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, TunedAdapter, fit
from llava_dvc.training.scenes import describe_scenes


def main(cfg: Config, prepared: Path, adapter: Path) -> None:
    train, val = load_split(prepared, "train"), load_split(prepared, "val")
    report = read_json(prepared / "report.json")
    data_md5 = report["data_md5"]
    require_label_range(cfg, prepared)
    require_hardware(cfg.backbone)
    backbone = load_backbone(cfg.backbone)
    encoder = backbone_encoder(cfg.backbone, cfg.image)

    def tune(spec: TrainingSpec) -> TunedAdapter:
        trainer = CountTrainer(backbone, encoder, spec)
        require_model(trainer, RequestedModel(cfg.backbone, cfg.image, cfg.adapter))
        return fit(trainer)

    key = run_key(prepared, cfg)
    spec = TrainingSpec(train, val, cfg.adapter, cfg.train, cfg.seed, checkpoints_of(key))
    if not is_main_process(cfg.backbone.device):  # the other processes write nothing
        tune(spec)
        return
    sections = {"seed", "data", "split", "prompt", "image", "backbone", "adapter", "train"}
    with (
        checkpoint_folder(key) as checkpoints,
        checkpoint_copies(cfg.train.checkpoint_to, key, checkpoints) as copies,
        open_run("train", cfg, sections, key, {"data_md5": data_md5}) as run,
    ):
        shown = [trainer_callback(run), TrainingProgress("train")]
        tuned = tune(replace(spec, callbacks=[*copies, *shown]))
        seen = concatenate_datasets([train, val])
        recipe = Recipe(
            backbone=cfg.backbone,
            image=cfg.image,
            question=question_text(val[0]["messages"]),
            decode="median",
            max_count=min(default_max_count(train["count"]), LARGEST_COUNT),
            temperature=tuned.temperature,
            smoothing=tuned.smoothing,
            zones=report.get("zones"),
            scenes=describe_scenes(seen["camera"][:], seen["image"]),
            recomputed_layers=tuned.recomputed_layers,
            versions=versions(),
        )
        with new_folder(adapter) as folder:
            save_adapter(tuned.model, tuned.weights, encoder, recipe, folder)
        sha256 = adapter_sha256(adapter)
        run.tags({"adapter": sha256})
        run.dataset("train", data_md5, len(train))
        run.model(adapter, sha256)


if __name__ == "__main__":
    run_stage(main)
