"""Measures how prepare, and the start of train and evaluate, scale with the number of frames.

    python -m benchmarks.prepare_scale --frames 1000 10000 100000 --size 96x72
    python -m benchmarks.prepare_scale --frames 100000 --size 160x120 --memory 1.5

It writes its own JPEGs, each with different bytes. prepare runs three times, each time in a new
process: on all frames, after 100 more frames, and with no change. `--memory` limits the memory of
the stages with a control group, page cache included. This needs root.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from llava_dvc.data.imports.mall import default_messages
from llava_dvc.data.labels import write_labels

ROOT = Path(__file__).parents[1]
ADDED = 100
DISTINCT = 64  # images that are encoded; the others differ only in a JPEG comment
GIB = 2**30


def main() -> None:
    arguments = parse_arguments()
    for frames in arguments.frames:
        folder = arguments.folder / str(frames)
        shutil.rmtree(folder, ignore_errors=True)
        images = encode_images(arguments.size, arguments.quality)
        fill(folder, 0, frames, images)
        limited = memory_limiter(arguments.memory)
        first = measure("stages.prepare", folder, limited, "data", "prepared")
        fill(folder, frames, frames + ADDED, images)
        more = measure("stages.prepare", folder, limited, "data", "prepared")
        again = measure("stages.prepare", folder, limited, "data", "prepared")
        starts = measure("benchmarks.prepare_scale", folder, limited, "--start", "prepared")
        shards = [path.stat().st_size for path in folder.glob("prepared/*/*.arrow")]
        report = {
            "frames": frames,
            "size": arguments.size,
            "data_mb": round(folder_size(folder / "data") / 1e6),
            "first": first,
            "frames_per_second": round(frames / first["seconds"]),
            f"{ADDED} more": more,
            "again": again,
            "largest_shard_mb": round(max(shards) / 1e6, 1),
            "shards": len(shards),
            "start": json.loads(starts.pop("output")),
            "limit_gb": arguments.memory,
        }
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
        if not arguments.keep:
            shutil.rmtree(folder)


def encode_images(size: str, quality: int, distinct: int = DISTINCT) -> list[bytes]:
    """Returns JPEGs of noise and a few shapes, which take as long to decode as camera frames."""
    width, height = map(int, size.split("x"))
    encoded = []
    for seed in range(distinct):
        rng = np.random.default_rng(seed)
        smooth = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 9, (height, width, 3))
        pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
        encoded.append(file.getvalue())
    return encoded


def fill(folder: Path, start: int, end: int, images: list[bytes]) -> None:
    """Writes data/ and params.yaml for frames 1 to `end`. Frames 1 to `start` exist already."""
    (folder / "data" / "frames").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "presets" / "tiny.yaml", folder / "params.yaml")
    for number in range(start + 1, end + 1):
        image = images[number % len(images)]
        comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
        path = folder / "data" / "frames" / f"seq_{number:06d}.jpg"
        path.write_bytes(image[:2] + comment + image[2:])
    walk = random.Random(0)
    write_labels(
        folder / "data" / "labels.csv", {n: walk.randint(5, 50) for n in range(1, end + 1)}
    )
    (folder / "data" / "messages.txt").write_text(default_messages(), encoding="utf-8")
    # As `dvc add` writes it: prepare reads the digest from here.
    record = {"outs": [{"md5": f"{end:032x}.dir", "path": "data"}]}
    (folder / "data.dvc").write_text(yaml.safe_dump(record))


def measure(
    module: str, folder: Path, limited: Callable[[], None], *words: str
) -> dict[str, object]:
    """Returns seconds and peak memory (MB, mapped files included) of a module run in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop("DVC_ROOT", None)
    with (folder / "output").open("w+") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=folder,
            env=environment,
            stdout=output,
            preexec_fn=limited,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        if status:
            sys.exit(f"{module} ended with {os.waitstatus_to_exitcode(status)}")
        output.seek(0)
        text = output.read()
    report: dict[str, object] = {
        "seconds": round(seconds, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }
    return report | ({"output": text} if text else {})


def memory_limiter(gib: float | None) -> Callable[[], None]:
    """Returns a function that puts its process under a memory limit, if `gib` is given."""
    if gib is None:
        return lambda: None
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    root = Path("/sys/fs/cgroup") / ("" if second else "memory") / "llava-dvc-scale"
    root.mkdir(exist_ok=True)
    name = "memory.max" if second else "memory.limit_in_bytes"
    (root / name).write_text(str(int(gib * GIB)))
    return lambda: (root / "cgroup.procs").write_text(str(os.getpid())) and None


def measure_start(prepared: Path) -> dict[str, dict[str, float]]:
    """Returns CPU seconds and MB (without mapped files) of each step from load to first batch."""
    from llava_dvc.config import load_config
    from llava_dvc.conversation import question_text
    from llava_dvc.dataset import load_split
    from llava_dvc.model.backbone import backbone_encoder, load_backbone
    from llava_dvc.model.counting import default_max_count
    from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec

    cfg = load_config()
    backbone = cfg.backbone.model_copy(update={"name": str(ROOT / cfg.backbone.name)})
    model, encoder = load_backbone(backbone), backbone_encoder(backbone, cfg.image)
    marks: dict[str, dict[str, float]] = {}
    began = time.process_time()
    before = own_memory()

    def mark(name: str) -> None:
        nonlocal began
        marks[name] = {
            "cpu_seconds": round(time.process_time() - began, 3),
            "mb": round(own_memory() - before, 1),
        }
        began = time.process_time()

    train, val, rows = (load_split(prepared, name) for name in ("train", "val", "eval"))
    mark("splits opened")
    question_text(val[0]["messages"])
    default_max_count(train["count"])
    np.array(rows["count"][:])
    mark("counts read")
    trainer = CountTrainer(
        model,
        encoder,
        TrainingSpec(
            train, val, cfg.adapter, cfg.train, seed=cfg.seed, checkpoints=Path("checkpoints")
        ),
    )
    mark("trainer built")
    next(iter(trainer.get_train_dataloader()))
    mark("first training batch")
    list(rows["image"][: cfg.evaluate.batch_size])
    mark("first frames to evaluate")
    return marks


def own_memory() -> float:
    """Returns the MB of this process that are not mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--size", default="96x72", help="of the JPEGs, WIDTHxHEIGHT")
    parser.add_argument("--quality", type=int, default=85, help="of the JPEGs")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/llava-dvc-scale"))
    parser.add_argument("--memory", type=float, help="GiB that a stage may use")
    parser.add_argument("--keep", action="store_true", help="leave the folders")
    return parser.parse_args()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--start"]:
        sys.stdout.write(json.dumps(measure_start(Path(sys.argv[2]))))
    else:
        main()
