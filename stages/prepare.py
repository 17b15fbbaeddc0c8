"""data/ to prepared/: checked frames with their conversations, split into train, val and eval."""

import sys
from pathlib import Path
from typing import Any

from llava_dvc import tracking
from llava_dvc.config import Config, run_stage
from llava_dvc.frames import read_conversations, read_frames
from llava_dvc.outs import new_folder, write_json
from llava_dvc.preparation import build, leak, numbers, report
from llava_dvc.split import split_frames


def main(cfg: Config, data: Path, prepared: Path) -> None:
    frames = read_frames(data, cfg.data.exclude)
    conversations = read_conversations(data)
    if cfg.prompt.phrasings == "first":
        conversations = conversations[:1]
    cameras = [frame.camera for frame in frames]
    split = split_frames(numbers(frames), cameras, **cfg.split.model_dump(), seed=cfg.seed)
    found = report(frames, split, data)
    with new_folder(prepared) as folder:
        build(frames, conversations, split, cfg.seed).save_to_disk(folder)
        write_json(folder / "report.json", found)
    if warning := leak(found, cfg.split.strategy):
        sys.stderr.write(f"{warning}\n")
    log(cfg, found, prepared)


def log(cfg: Config, found: dict[str, Any], prepared: Path) -> None:
    sections = {"seed", "data", "split", "prompt"}
    key = tracking.digest(found, cfg.model_dump(include=sections))
    with tracking.open_run("prepare", cfg, sections, key, {"data_md5": found["data_md5"]}) as run:
        run.metrics({"frames": found["frames"], "blind_mae": found["blind_interpolation"]["mae"]})
        run.artifact(prepared / "report.json")


if __name__ == "__main__":
    run_stage(main)
