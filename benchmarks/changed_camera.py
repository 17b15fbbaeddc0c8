"""Measures whether `llava-dvc watch` notices that a camera has changed.

    python -m benchmarks.changed_camera DATA

DATA is a folder like data/. Each fifth of the frames is held out in turn. The others are described
as training does. The held-out frames are then looked at in order of time, as a camera's pictures,
as they are and changed. No model is needed.
"""

import argparse
import io
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageFilter

from llava_dvc.data.frames import read_frames
from llava_dvc.data.images import read_image
from llava_dvc.serving.watch.camera.health import PictureHealth
from llava_dvc.training.scenes import KnownScenes, describe_scenes

BLOCKS, GAP, WINDOW = 5, 2, 5
Picture = Image.Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    frames = read_frames(parser.parse_args().data, ())
    images = [read_image(frame.path) for frame in frames]
    cameras = [frame.camera for frame in frames]
    rows: dict[str, list[list[tuple[float, str | None]]]] = {}
    for block in np.array_split(np.arange(len(frames)), BLOCKS):
        first, last = int(block[0]), int(block[-1])
        seen = [*range(first - GAP), *range(last + GAP + 1, len(frames))]
        described = describe_scenes([cameras[i] for i in seen], [images[i] for i in seen])
        if described is None:
            raise SystemExit("a camera has too few frames to be described")
        known, held_out = KnownScenes(described), images[first : last + 1]
        for name, change in (ORDINARY | CHANGED).items():
            rows.setdefault(name, []).append(watched(known, change(held_out)))
    write_table(rows)


def watched(known: KnownScenes, images: Sequence[Picture]) -> list[tuple[float, str | None]]:
    """Distance and mark of each picture. The camera starts anew every WINDOW pictures."""
    found, health = [], PictureHealth()
    for place, image in enumerate(images):
        if place % WINDOW == 0:
            health = PictureHealth()
        distance = known.distance(image)
        found.append((distance, health.step(image, distance)))
    return found


def write_table(rows: dict[str, list[list[tuple[float, str | None]]]]) -> None:
    sys.stdout.write(
        "| | distance | unlike training | marked | within five frames |\n|---|---|---|---|---|\n"
    )
    for name, blocks in rows.items():
        pairs = [pair for block in blocks for pair in block]
        distances = [distance for distance, _ in pairs]
        windows = [
            block[start : start + WINDOW]
            for block in blocks
            for start in range(0, len(block) - WINDOW + 1, WINDOW)
        ]
        noticed = [any(mark for _, mark in window) for window in windows]
        unlike = np.mean([distance > 1 for distance in distances])
        marked = np.mean([mark is not None for _, mark in pairs])
        span = f"{min(distances):.2f} to {max(distances):.2f}"
        windows_noticed = f"{sum(noticed)} of {len(noticed)}"
        sys.stdout.write(f"| {name} | {span} | {unlike:.1%} | {marked:.1%} | {windows_noticed} |\n")


def each(change: Callable[[Picture], Picture]) -> Callable[[Sequence[Picture]], list[Picture]]:
    return lambda images: [change(image) for image in images]


def widened(image: Picture) -> tuple[Picture, int]:
    """The picture with its edge pixels repeated on all sides, and how many times."""
    width = image.width // 8
    pixels = np.pad(np.asarray(image), ((width, width), (width, width), (0, 0)), mode="edge")
    return Image.fromarray(pixels), width


def shifted(image: Picture, across: float, down: float) -> Picture:
    wide, edge = widened(image)
    x, y = edge + round(across * image.width), edge + round(down * image.height)
    return wide.crop((x, y, x + image.width, y + image.height))


def rotated(image: Picture, degrees: float) -> Picture:
    wide, edge = widened(image)
    turned = wide.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((edge, edge, edge + image.width, edge + image.height))


def smeared(image: Picture) -> Picture:
    """As behind grease: 8 pixels of blur in 640."""
    return image.filter(ImageFilter.GaussianBlur(image.width / 80))


def at_night(image: Picture) -> Picture:
    """A fifth of the light, and the noise of a sensor that amplifies it."""
    noise = np.random.default_rng(0).normal(0, 4, (image.height, image.width, 1))
    return Image.fromarray((np.asarray(image) * 0.2 + noise).clip(0, 255).astype(np.uint8))


def as_jpeg(image: Picture) -> Picture:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    return Image.open(file).convert("RGB")


def as_video(images: Sequence[Picture]) -> list[Picture]:
    """The pictures as a camera sends them: H.264 at a low rate."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=5, options={"crf": "30"})
        stream.width, stream.height = images[0].size
        stream.pix_fmt = "yuv420p"
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_image(image)))
        out.mux(stream.encode())
    file.seek(0)
    with av.open(file) as clip:
        return [frame.to_image() for frame in clip.decode(video=0)]


ORDINARY: dict[str, Callable[[Sequence[Picture]], list[Picture]]] = {
    "as they are": list,
    "JPEG of quality 30": each(as_jpeg),
    "H.264, crf 30": as_video,
    "half the size": each(lambda image: image.reduce(2)),
    "a tenth darker": each(lambda image: image.point(lambda level: round(level * 0.9))),
}
CHANGED: dict[str, Callable[[Sequence[Picture]], list[Picture]]] = {
    "shifted right by 10 %": each(lambda image: shifted(image, 0.1, 0)),
    "shifted left by 10 %": each(lambda image: shifted(image, -0.1, 0)),
    "shifted down by 10 %": each(lambda image: shifted(image, 0, 0.1)),
    "rotated by 5 degrees": each(lambda image: rotated(image, 5)),
    "rotated by -5 degrees": each(lambda image: rotated(image, -5)),
    "lens smeared": each(smeared),
    "night": each(at_night),
}

if __name__ == "__main__":
    main()
