"""data/ to prepared/: checks the frames, adds their conversations, splits them."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_dvc.config import Config
from llava_dvc.data.data_errors import DataProblem, skippable_problems, summarize_kinds
from llava_dvc.data.decode_cache import DecodeCache
from llava_dvc.data.frames import scan_data, take_unlabelled
from llava_dvc.data.prepare import (
    build_report,
    camera_warning,
    frame_numbers,
    leak_warning,
    report_on_failure,
    split_rows,
    split_summary,
)
from llava_dvc.data.split import split_frames
from llava_dvc.data.zones import frames_in_zone
from llava_dvc.dataset import write_splits
from llava_dvc.files import new_folder, state_root, write_json
from llava_dvc.stage_runner import run_stage
from llava_dvc.terminal.progress import tell
from llava_dvc.tracking.run import digest, open_run


def main(cfg: Config, data: Path, prepared: Path) -> None:
    cache = DecodeCache.in_repository(state_root())
    with report_on_failure(prepared):
        frames, conversations, problems = scan_data(data, cfg.data.exclude, cache)
        unlabelled = None
        if cfg.data.unlabelled == "allow":
            unlabelled, problems = take_unlabelled(problems)
        skipped = skippable_problems(problems, cfg.data.on_error, cfg.data.max_skipped)
        frames, zones = frames_in_zone(frames, data, cfg.data.zone)
    if cfg.prompt.phrasings == "first":
        conversations = conversations[:1]
    cameras = [frame.camera for frame in frames]
    split = split_frames(frame_numbers(frames), cameras, cfg.split, cfg.seed)
    report = build_report(frames, split, data, skipped, unlabelled)
    if zones:
        report["zones"] = zones.model_dump()
    with new_folder(prepared) as folder:
        write_splits(folder, split_rows(frames, conversations, split, cfg.seed))
        write_json(folder / "report.json", report)
    tell("prepare", split_summary(report))
    warn(skipped, prepared)
    for warning in (leak_warning, camera_warning):
        if text := warning(report, cfg.split.strategy):
            sys.stderr.write(f"{text}\n")
    log(cfg, report, prepared)


def warn(skipped: Sequence[DataProblem], prepared: Path) -> None:
    if skipped:
        sys.stderr.write(
            f"warning: {len(skipped)} rows or files skipped: {summarize_kinds(skipped)}. "
            f"{prepared}/report.json lists them.\n"
        )


def log(cfg: Config, report: dict[str, Any], prepared: Path) -> None:
    sections = {"seed", "data", "split", "prompt"}
    key = digest(report, cfg.model_dump(include=sections))
    with open_run("prepare", cfg, sections, key, {"data_md5": report["data_md5"]}) as run:
        figures = {"frames": report["frames"], "skipped": len(report["rejected"])}
        figures |= {"unlabelled": report["unlabelled"]} if "unlabelled" in report else {}
        run.metrics(figures | {"blind_mae": report["blind_interpolation"]["mae"]})
        run.artifact(prepared / "report.json")


if __name__ == "__main__":
    run_stage(main)
