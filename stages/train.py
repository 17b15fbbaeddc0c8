"""prepared/ and the backbone to models/adapter/: a LoRA adapter that counts people."""

from functools import partial
from pathlib import Path

from llava_dvc import tracking
from llava_dvc.adapter import save_adapter
from llava_dvc.backbone import load_backbone, load_processor
from llava_dvc.checkpoints import checkpoint_folder, checkpoints_of, run_key
from llava_dvc.config import Config, run_stage
from llava_dvc.counting import ceiling
from llava_dvc.dataset import load_split, question
from llava_dvc.outs import new_folder, read_json
from llava_dvc.preflight import Asked
from llava_dvc.recipe import Recipe, adapter_sha256, versions
from llava_dvc.training import build_trainer, fit, is_main_process


def main(cfg: Config, prepared: Path, adapter: Path) -> None:
    train, val = load_split(prepared, "train"), load_split(prepared, "val")
    data_md5 = read_json(prepared / "report.json")["data_md5"]
    model = load_backbone(cfg.backbone)
    processor = load_processor(cfg.backbone, cfg.image)
    trainer = partial(
        build_trainer, model, processor, train, val, cfg.adapter, cfg.train, seed=cfg.seed
    )
    asked = Asked(cfg.backbone, cfg.image, cfg.adapter)
    key = run_key(prepared, cfg)
    if not is_main_process(cfg.backbone.device):  # the others lend their GPU, and write nothing
        fit(trainer(checkpoints=checkpoints_of(key)), asked)
        return
    sections = {"seed", "data", "split", "prompt", "image", "backbone", "adapter", "train"}
    with (
        checkpoint_folder(key) as checkpoints,
        tracking.open_run("train", cfg, sections, key, {"data_md5": data_md5}) as run,
    ):
        callbacks = [tracking.trainer_callback(run)]
        tuned = fit(trainer(checkpoints=checkpoints, callbacks=callbacks), asked)
        recipe = Recipe(
            backbone=cfg.backbone,
            image=cfg.image,
            question=question(val),
            decode="median",
            max_count=ceiling(train["count"]),
            temperature=tuned.temperature,
            versions=versions(),
        )
        with new_folder(adapter) as folder:
            save_adapter(tuned.model, tuned.weights, processor, recipe, folder)
        sha256 = adapter_sha256(adapter)
        run.tags({"adapter": sha256})
        run.dataset("train", data_md5, len(train))
        run.model(adapter, sha256)


if __name__ == "__main__":
    run_stage(main)
