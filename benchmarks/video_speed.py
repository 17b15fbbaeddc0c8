"""Measures `llava-dvc predict` on a video, and the model's share of the time.

    python -m benchmarks.video_speed --minutes 10

It makes a video from the sample's frames with a little motion: 640x480, 25 frames per second. The
command runs once in its own process and counts one frame per second. Its start-up time counts. The
model alone runs before and after in this process, with `counting.predict` on decoded frames, so
that other load on the machine shows.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from PIL import Image, ImageChops

from llava_dvc import Counter

RATE = 25  # frames per second
HOLD = 50  # video frames per sample frame
REFERENCE = 48  # frames


def make_video(path: Path, images: list[Image.Image], minutes: float) -> None:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "g": "50"})
        stream.width, stream.height = 640, 480
        stream.pix_fmt = "yuv420p"
        for index in range(int(minutes * 60 * RATE)):
            image = images[index // HOLD % len(images)]
            moved = ImageChops.offset(image, index % HOLD // 5, 0)
            out.mux(stream.encode(av.VideoFrame.from_image(moved)))
        out.mux(stream.encode())


def frames_per_second(counter: Counter, frames: Sequence[Image.Image | Path]) -> float:
    """Counts all frames in one call."""
    began = time.perf_counter()
    counter.count(frames)
    return len(frames) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="models/adapter")
    parser.add_argument("--frames", type=Path, default=Path("data/frames"))
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    paths = sorted(arguments.frames.glob("*.jpg"))
    images = [Image.open(path).convert("RGB").resize((640, 480)) for path in paths]
    counter = Counter.from_pretrained(arguments.adapter)
    counter.count(images[:8])
    with TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        make_video(clip, images, arguments.minutes)
        before = frames_per_second(counter, images[:REFERENCE])
        began = time.perf_counter()
        command = [str(Path(sys.executable).with_name("llava-dvc")), "predict", str(clip)]
        done = subprocess.run(
            [*command, "--adapter", arguments.adapter], capture_output=True, text=True, check=True
        )
        seconds = time.perf_counter() - began
    after = frames_per_second(counter, images[:REFERENCE])
    frames = len(done.stdout.splitlines()) - 1
    report = {
        "minutes": arguments.minutes,
        "frames_counted": frames,
        "seconds": round(seconds, 1),
        "model_alone_seconds": round(frames * 2 / (before + after), 1),
        "model_alone_frames_a_second": [round(before, 2), round(after, 2)],
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
