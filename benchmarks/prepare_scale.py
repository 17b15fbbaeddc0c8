"""How prepare, and the start of train and evaluate, grow with the number of frames.

    python -m benchmarks.prepare_scale --frames 1000 10000 100000 --size 96x72
    python -m benchmarks.prepare_scale --frames 100000 --size 160x120 --memory 1.5

JPEGs are made on the spot, each with bytes of its own. Every number of frames is prepared three
times in processes of their own: at first, again after 100 frames were added, and again with nothing
new. `--memory` puts the stages under a limit by a control group, page cache included (needs root).
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

from llava_dvc.data.labels import write_labels
from llava_dvc.data.mall import default_messages

ROOT = Path(__file__).parents[1]
ADDED = 100
LOOKS = 64  # pictures that are encoded; the others differ from one of them in a comment
GIB = 2**30


def main() -> None:
    arguments = _parse()
    for frames in arguments.frames:
        folder = arguments.folder / str(frames)
        shutil.rmtree(folder, ignore_errors=True)
        pictures = looks(arguments.size, arguments.quality)
        fill(folder, 0, frames, pictures)
        limited = limit(arguments.memory)
        first = measure("stages.prepare", folder, limited, "data", "prepared")
        fill(folder, frames, frames + ADDED, pictures)
        more = measure("stages.prepare", folder, limited, "data", "prepared")
        again = measure("stages.prepare", folder, limited, "data", "prepared")
        starts = measure("benchmarks.prepare_scale", folder, limited, "--start", "prepared")
        shards = [path.stat().st_size for path in folder.glob("prepared/*/*.arrow")]
        found = {
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
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()
        if not arguments.keep:
            shutil.rmtree(folder)


def looks(size: str, quality: int) -> list[bytes]:
    """Encoded pictures of grain and a few shapes: as much to decode as a camera's."""
    width, height = map(int, size.split("x"))
    found = []
    for seed in range(LOOKS):
        rng = np.random.default_rng(seed)
        smooth = rng.integers(0, 255, (9, 12, 3), dtype=np.uint8)
        image = Image.fromarray(smooth).resize((width, height), Image.Resampling.BICUBIC)
        grain = rng.normal(0, 9, (height, width, 3))
        pixels = (np.asarray(image) + grain).clip(0, 255).astype(np.uint8)
        file = BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
        found.append(file.getvalue())
    return found


def fill(folder: Path, start: int, end: int, pictures: list[bytes]) -> None:
    """Write data/ and params.yaml for frames 1 to `end`, those up to `start` being there."""
    (folder / "data" / "frames").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "presets" / "tiny.yaml", folder / "params.yaml")
    for number in range(start + 1, end + 1):
        picture = pictures[number % len(pictures)]
        comment = b"\xff\xfe\x00\x0a" + number.to_bytes(8, "big")
        path = folder / "data" / "frames" / f"seq_{number:06d}.jpg"
        path.write_bytes(picture[:2] + comment + picture[2:])
    walk = random.Random(0)
    write_labels(
        folder / "data" / "labels.csv", {n: walk.randint(5, 50) for n in range(1, end + 1)}
    )
    (folder / "data" / "messages.txt").write_text(default_messages(), encoding="utf-8")
    # As `dvc add` leaves it: the data's digest is read, not taken again.
    record = {"outs": [{"md5": f"{end:032x}.dir", "path": "data"}]}
    (folder / "data.dvc").write_text(yaml.safe_dump(record))


def measure(
    module: str, folder: Path, limited: Callable[[], None], *words: str
) -> dict[str, object]:
    """Seconds and peak memory (MB, mapped files included) of a module run in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment.pop("DVC_ROOT", None)
    with (folder / "output").open("w+") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            cwd=folder,
            env=environment,
            stdout=output,
            preexec_fn=limited,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        if status:
            sys.exit(f"{module} ended with {os.waitstatus_to_exitcode(status)}")
        output.seek(0)
        text = output.read()
    found: dict[str, object] = {
        "seconds": round(seconds, 1),
        "peak_mb": round(usage.ru_maxrss / 1024),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
    }
    return found | ({"output": text} if text else {})


def limit(gib: float | None) -> Callable[[], None]:
    """What puts the calling process under a limit of memory; nothing without one."""
    if gib is None:
        return lambda: None
    second = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    root = Path("/sys/fs/cgroup") / ("" if second else "memory") / "llava-dvc-scale"
    root.mkdir(exist_ok=True)
    name = "memory.max" if second else "memory.limit_in_bytes"
    (root / name).write_text(str(int(gib * GIB)))
    return lambda: (root / "cgroup.procs").write_text(str(os.getpid())) and None


def start(prepared: Path) -> dict[str, dict[str, float]]:
    """CPU seconds and MB (without mapped files) from the imports' end to the first batch."""
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
    begun = time.process_time()
    held = own_memory()

    def mark(name: str) -> None:
        nonlocal begun
        marks[name] = {
            "cpu_seconds": round(time.process_time() - begun, 3),
            "mb": round(own_memory() - held, 1),
        }
        begun = time.process_time()

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
    """MB of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _parse() -> argparse.Namespace:
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
        sys.stdout.write(json.dumps(start(Path(sys.argv[2]))))
    else:
        main()
