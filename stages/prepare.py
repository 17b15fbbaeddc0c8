"""data/ to prepared/: checked frames with their conversations, split into train, val and eval."""

import sys
from pathlib import Path
from typing import Any

from llava_dvc.config import Config
from llava_dvc.data.data_errors import tally, to_skip
from llava_dvc.data.decode_cache import Checked
from llava_dvc.data.frames import scan_data
from llava_dvc.data.prepare import leak, numbers, report, reported, splits
from llava_dvc.data.split import split_frames
from llava_dvc.dataset import write_splits
from llava_dvc.files import new_folder, state_root, write_json
from llava_dvc.stage_runner import run_stage
from llava_dvc.tracking.mlflow_run import digest, open_run


def main(cfg: Config, data: Path, prepared: Path) -> None:
    with reported(prepared):
        frames, conversations, problems = scan_data(
            data, cfg.data.exclude, Checked.of(state_root())
        )
        skipped = to_skip(problems, cfg.data.on_error, cfg.data.max_skipped)
    if cfg.prompt.phrasings == "first":
        conversations = conversations[:1]
    cameras = [frame.camera for frame in frames]
    split = split_frames(numbers(frames), cameras, **cfg.split.model_dump(), seed=cfg.seed)
    found = report(frames, split, data, skipped)
    with new_folder(prepared) as folder:
        write_splits(folder, splits(frames, conversations, split, cfg.seed))
        write_json(folder / "report.json", found)
    if skipped:
        sys.stderr.write(
            f"warning: {len(skipped)} rows or files skipped: {tally(skipped)}; "
            f"{prepared}/report.json names them\n"
        )
    if warning := leak(found, cfg.split.strategy):
        sys.stderr.write(f"{warning}\n")
    log(cfg, found, prepared)


def log(cfg: Config, found: dict[str, Any], prepared: Path) -> None:
    sections = {"seed", "data", "split", "prompt"}
    key = digest(found, cfg.model_dump(include=sections))
    with open_run("prepare", cfg, sections, key, {"data_md5": found["data_md5"]}) as run:
        figures = {"frames": found["frames"], "skipped": len(found["rejected"])}
        run.metrics(figures | {"blind_mae": found["blind_interpolation"]["mae"]})
        run.artifact(prepared / "report.json")


if __name__ == "__main__":
    run_stage(main)
