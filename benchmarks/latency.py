"""Measures how long one frame takes from JPEG bytes to its count, and what `serve` makes of many.

    python -m benchmarks.latency                                     # models/adapter, on its device
    python -m benchmarks.latency --skeleton SKELETON [--compiled]    # LLaVA-1.5-7B, random weights

Latency: one frame after the other, through `Counter` and through HTTP (p50 and p95). Throughput:
frames per second of the service with 1, 4, 16 and 64 clients that each send their next frame when
the last one is answered. The service runs in a thread here, as `llava-dvc serve` runs it; its
clients are in a process of their own. The service counts up to 8 frames in a batch.

`--compiled` merges the adapter and compiles the layers, as `evaluate.compile` does. All batch sizes
are compiled before the measurement.
"""

import argparse
import http.client
import io
import json
import multiprocessing
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Image as ImageColumn
from peft import get_peft_model
from PIL import Image

from benchmarks.count_speed import prefer_numbers
from benchmarks.random_model import CONVERSATION, make_frames, make_weights, preset
from benchmarks.serve_load import send_all
from llava_dvc import Counter
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.model.adapter import peft_config
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.recipe import Recipe, versions
from llava_dvc.serving.server import GracefulServer, bind_socket, server_config
from llava_dvc.serving.service import build_app

WARM_UP = 3
SHAPES_PER_BATCH = 4
"""That a compiled part sees of one batch size: prompt and last token, with room for more."""


class Port(NamedTuple):
    """What `send_all` asks of a server. A process can send it to another."""

    number: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.number, timeout=120)


def main() -> None:
    arguments = parse_arguments()
    began = time.monotonic()
    counter = random_counter(arguments) if arguments.skeleton else adapter_counter(arguments)
    bodies = frames_of(arguments.frames)
    if arguments.compiled:
        warm_up_batches(counter, bodies, min(counter.batch_size, max(arguments.clients)))
    report: dict[str, Any] = {
        "machine": machine(counter),
        "compiled": arguments.compiled,
        "start_s": round(time.monotonic() - began, 1),
        "counter": direct_latency(counter, bodies, arguments.requests),
    }
    with redirect_stdout(sys.stderr):  # the server prints its address
        report |= served(counter, bodies, arguments)
    text = json.dumps(report, indent=1) + "\n"
    sys.stdout.write(text)
    if arguments.out:
        arguments.out.write_text(text)


def adapter_counter(arguments: argparse.Namespace) -> Counter:
    counter = Counter.from_pretrained(arguments.adapter)
    if arguments.compiled:
        merge_and_compile(counter.predictor.model)
    return counter


def random_counter(arguments: argparse.Namespace) -> Counter:
    """Returns a counter with the 7B model of random weights and an adapter of the plain preset."""
    make_weights(arguments.skeleton, arguments.weights)
    cfg = preset(arguments.weights, [])
    model = load_backbone(cfg.backbone)
    tuned = get_peft_model(model, peft_config(cfg.adapter, model)).eval()
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    prefer_numbers(model, encoder)
    if arguments.compiled:
        merge_and_compile(tuned)
    recipe = Recipe(
        backbone=cfg.backbone,
        image=cfg.image,
        question=CONVERSATION.question,
        decode="median",
        max_count=99,
        temperature=1.0,
        versions=versions(),
    )
    return Counter(tuned, encoder, recipe)


def frames_of(folder: Path | None) -> list[bytes]:
    """Returns the JPEG files of `folder`, or 640x480 frames of smooth noise."""
    if folder:
        return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    column = make_frames(32).cast_column("image", ImageColumn(decode=False))["image"]
    return [image["bytes"] for image in column]


def warm_up_batches(counter: Counter, bodies: list[bytes], largest: int) -> None:
    """Compiles every batch size up to `largest`: the service makes batches of any size."""
    torch._dynamo.config.recompile_limit = SHAPES_PER_BATCH * largest
    for size in range(1, largest + 1):
        counter.count([Image.open(io.BytesIO(body)) for body in islice(cycle(bodies), size)])
        sys.stderr.write(f"compiled a batch of {size}\n")


def direct_latency(counter: Counter, bodies: list[bytes], number: int) -> dict[str, float]:
    """Measures `number` frames one by one through `Counter`."""
    times = []
    for body in islice(cycle(bodies), number + WARM_UP):
        began = time.perf_counter()
        counter.count([Image.open(io.BytesIO(body))])
        times.append(time.perf_counter() - began)
    return quantiles(times[WARM_UP:])


def served(counter: Counter, bodies: list[bytes], arguments: argparse.Namespace) -> dict[str, Any]:
    """Measures the service: one frame after the other, then rounds with several clients."""
    listener = bind_socket("127.0.0.1", 0)
    server = GracefulServer(server_config(build_app(counter)))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = Port(listener.getsockname()[1])
    rounds = []
    # Spawned: a fork would copy the GPU's context and the threads' locks.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for clients in [1, *arguments.clients]:  # the first round is a warm-up
            sent = list(islice(cycle(bodies), max(arguments.requests, 4 * clients)))
            seconds, latencies, statuses = pool.submit(send_all, port, sent, clients).result()
            rounds.append(
                {
                    "clients": clients,
                    "frames_per_s": round(statuses[200] / seconds, 2),
                    "statuses": dict(statuses),
                    **quantiles(latencies),
                }
            )
    server.should_exit = True
    thread.join()
    return {"http": rounds[1:]}


def quantiles(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.quantile(seconds, [0.5, 0.95]) * 1000
    return {"p50_ms": round(float(p50), 1), "p95_ms": round(float(p95), 1)}


def machine(counter: Counter) -> dict[str, str]:
    device = counter.predictor.model.device.type
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "cores": str(os.cpu_count()),
        "backbone": Path(counter.recipe.backbone.name).name,
        "quantization": counter.recipe.backbone.quantization,
        **{name: version(name) for name in ("torch", "transformers", "bitsandbytes")},
    }


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--adapter", default="models/adapter")
    parser.add_argument("--skeleton", type=Path, help="measure the 7B model instead of --adapter")
    parser.add_argument("--weights", type=Path, default=Path("/tmp/llava-7b-random"))
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--frames", type=Path, help="a folder of JPEG files (default: made up)")
    parser.add_argument("--requests", type=int, default=200, help="frames of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
