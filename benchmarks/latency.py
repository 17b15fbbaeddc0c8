"""Measures how long one frame takes from JPEG bytes to its count, and what `serve` makes of many.

    python -m benchmarks.latency                                     # models/adapter, on its device
    python -m benchmarks.latency --skeleton SKELETON                 # LLaVA-1.5-7B, random weights
    python -m benchmarks.latency --skeleton SKELETON --set backbone.quantization=fp8

Latency: one frame after the other, through `Counter` and through HTTP (p50 and p95). Throughput:
frames per second of the service with 1, 4, 16 and 64 clients that each send their next frame when
the last one is answered. The service runs in a thread here, as `llava-dvc serve` runs it; its
clients are in a process of their own. The service counts up to 8 frames in a batch.

Ways to count, one after the other: `plain`, as the model was trained; `graphs`, with merged
and compiled layers and CUDA graphs, as everything counts on a GPU. A CPU has only `plain`.
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
from collections.abc import Callable
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
from PIL import Image

from benchmarks.apart import limit_memory
from benchmarks.count_speed import prefer_numbers
from benchmarks.random_model import make_frames, make_weights, preset, untrained_adapter
from benchmarks.serve_load import send_all
from benchmarks.video_speed import frames_per_second
from llava_dvc import Counter
from llava_dvc.checks.loading import load_checked_adapter
from llava_dvc.data.images import upright_rgb
from llava_dvc.evaluation.cuda_graphs import (
    count_with_graphs,
    pad_rows,
    padded_size,
)
from llava_dvc.model.counting import autocast
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.server import GracefulServer, bind_socket, server_config
from llava_dvc.serving.service import build_app

WARM_UP = 3
MANY = 256  # frames in one call
WAYS = ["plain", "graphs"]


class Port(NamedTuple):
    """What `send_all` asks of a server. A process can send it to another."""

    number: int

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.number, timeout=120)


def main() -> None:
    arguments = parse_arguments()
    limit_memory(arguments.memory)
    began = time.monotonic()
    counter = random_counter(arguments) if arguments.skeleton else adapter_counter(arguments)
    report: dict[str, Any] = {"machine": machine(counter), "load_s": since(began)}
    bodies = frames_of(arguments.frames)
    for way in arguments.ways:
        with redirect_stdout(sys.stderr):  # the server prints its address
            report[way] = measured(counter, way, bodies, arguments)
        text = json.dumps(report, indent=1) + "\n"
        if arguments.out:
            arguments.out.write_text(text)
    sys.stdout.write(text)


def measured(
    counter: Counter, way: str, bodies: list[bytes], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Prepares the counter to count in this way, and measures it."""
    on_gpu = counter.predictor.model.device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    began = time.monotonic()
    if way == "graphs":
        count_with_graphs(counter.predictor, counter.batch_size)
        counter.warm_up()
    start = since(began)
    pictures = [upright_rgb(Image.open(io.BytesIO(body))) for body in bodies]
    direct = direct_latency(counter, bodies, arguments.seconds)
    many = [Image.open(io.BytesIO(body)) for body in islice(cycle(bodies), MANY)]
    rows = {
        "start_s": start,
        "parts_ms": parts_of_a_frame(counter, pictures),
        "counter": direct,
        "counter_frames_per_s": round(frames_per_second(counter, many), 1),
        "http": served(
            counter, bodies, arguments.clients, 1000 * arguments.seconds / direct["p50_ms"]
        ),
    }
    if on_gpu:
        rows["peak_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 1)
    if way == "graphs":
        rows["recorded_differs_by"] = distance_of_replays(counter, pictures)
    return rows


def parts_of_a_frame(counter: Counter, pictures: list[Image.Image]) -> dict[str, float]:
    """Returns what the parts of counting one frame take, and a batch of 8 on the device."""
    predictor = counter.predictor
    parts = {"encode": median_ms(lambda: next(predictor.batches(pictures[:1], 1)))}
    for size in (1, 8):
        batch = next(predictor.batches(pictures[:size], size))

        def step(batch: Any = batch) -> None:
            with autocast(predictor.model):
                predictor.step(batch)[0].cpu()

        parts[f"step of {size}"] = median_ms(step)
    return parts


def distance_of_replays(counter: Counter, pictures: list[Image.Image]) -> float:
    """Returns the largest difference in log P(count) between a replay and the same layers without
    a recording. Every batch has other frames.
    """
    predictor, found = counter.predictor, []
    for first, size in enumerate((1, 1, 3, 5, 8, 2, 1)):
        batch = next(predictor.batches(pictures[first : first + size], size))
        with autocast(predictor.model):
            padded = pad_rows(batch, padded_size(size))
            found.append(predictor.step(batch)[0] - predictor.answer(padded)[0][:size])
    return max(difference.abs().max().item() for difference in found)


def median_ms(run: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM_UP + 7):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return round(1000 * float(np.median(times[WARM_UP:])), 1)


def since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def adapter_counter(arguments: argparse.Namespace) -> Counter:
    return Counter(*load_checked_adapter(find_adapter(arguments.adapter)))


def random_counter(arguments: argparse.Namespace) -> Counter:
    """Returns a counter with the 7B model of random weights and an adapter of the plain preset."""
    make_weights(arguments.skeleton, arguments.weights)
    tuned, encoder, recipe = untrained_adapter(preset(arguments.weights, arguments.set))
    prefer_numbers(tuned.get_base_model(), encoder)
    return Counter(tuned.eval(), encoder, recipe)


def frames_of(folder: Path | None) -> list[bytes]:
    """Returns the JPEG files of `folder`, or 640x480 frames of smooth noise."""
    if folder:
        return [path.read_bytes() for path in sorted(folder.glob("*.jpg"))]
    column = make_frames(32).cast_column("image", ImageColumn(decode=False))["image"]
    return [image["bytes"] for image in column]


def direct_latency(counter: Counter, bodies: list[bytes], seconds: float) -> dict[str, float]:
    """Measures frames one by one through `Counter`."""
    times, began = [], time.perf_counter()
    for body in cycle(bodies):
        start = time.perf_counter()
        counter.count([Image.open(io.BytesIO(body))])
        times.append(time.perf_counter() - start)
        if len(times) > 2 * WARM_UP and time.perf_counter() - began > seconds:
            break
    return quantiles(times[WARM_UP:])


def served(
    counter: Counter, bodies: list[bytes], all_clients: list[int], number: float
) -> list[dict[str, Any]]:
    """Measures the service in rounds: one frame after the other, then with several clients."""
    listener = bind_socket("127.0.0.1", 0)
    server = GracefulServer(server_config(build_app(counter)))
    thread = Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    port = Port(listener.getsockname()[1])
    rounds = []
    # Spawned: a fork would copy the GPU's context and the threads' locks.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for clients, factor in [(1, 0.1), *((clients, 1.0) for clients in all_clients)]:
            sent = list(islice(cycle(bodies), max(int(factor * number), 4 * clients)))
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
    return rounds[1:]  # the first round is a warm-up


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
    parser.add_argument("--set", action="append", default=[], metavar="section.key=value")
    parser.add_argument("--ways", nargs="+", default=["plain"], choices=WAYS)
    parser.add_argument("--frames", type=Path, help="a folder of JPEG files (default: made up)")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--memory", type=float, help="GiB to use, to imitate a smaller card")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
