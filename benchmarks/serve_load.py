"""Load test of `llava-dvc serve`: requests per second, latency, memory, bad bodies and SIGTERM.

    python -m benchmarks.serve_load --requests 2000 --clients 16

It starts its own server on 127.0.0.1. Between the rounds of requests it counts frames without a
server, with `counting.predict` in this process, so that other load on the machine shows in both
figures.
"""

import argparse
import http.client
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.video_speed import frames_per_second
from llava_dvc import Counter

ROUNDS = 5
REFERENCE = 48  # frames
HEADERS = {"Content-Type": "image/jpeg"}


class Server:
    def __init__(self, adapter: str) -> None:
        command = [str(Path(sys.executable).with_name("llava-dvc")), "serve", "--port", "0"]
        self.process = subprocess.Popen(
            [*command, "--adapter", adapter], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)

    def memory(self) -> float:
        """Returns the resident memory in MB."""
        connection = self.connect()
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        found = re.search(r"^process_resident_memory_bytes (\S+)", text, re.MULTILINE)
        assert found
        return float(found[1]) / 1e6


def post(connection: http.client.HTTPConnection, body: bytes) -> int:
    """Posts one frame and returns the status."""
    connection.request("POST", "/count", body, HEADERS)
    answer = connection.getresponse()
    answer.read()
    return answer.status


def send_all(
    server: Server, bodies: list[bytes], clients: int
) -> tuple[float, list[float], Tally[int]]:
    """Returns the seconds for all `bodies`, their latencies, and how often each status came."""
    waiting = iter(bodies)
    statuses: Tally[int] = Tally()

    def client(_: int) -> list[float]:
        connection, latencies = server.connect(), []
        for body in waiting:  # a list's iterator is thread-safe: each body goes to one client
            began = time.perf_counter()
            statuses[post(connection, body)] += 1
            latencies.append(time.perf_counter() - began)
        return latencies

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        latencies = [one for found in pool.map(client, range(clients)) for one in found]
    return time.perf_counter() - began, latencies, statuses


def bad_bodies(good: bytes) -> Iterator[tuple[str, bytes]]:
    huge = io.BytesIO()
    Image.new("L", (10_000, 5_000)).save(huge, "JPEG")
    yield "empty", b""
    yield "garbage", b"no picture" * 99
    yield "truncated", good[: len(good) // 2]
    yield "50 megapixels", huge.getvalue()
    yield "21 MB", bytes(21_000_000)


def at_sigterm(server: Server, bodies: list[bytes], clients: int) -> Tally[str]:
    """Returns the outcomes of all requests that were sent until the server refused connections."""
    outcomes: Tally[str] = Tally()

    def client(number: int) -> None:
        for body in islice(cycle(bodies), number, number + 60):
            connection = server.connect()
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            try:
                outcomes[str(post(connection, body))] += 1
            except OSError as error:
                outcomes[type(error).__name__] += 1

    with ThreadPoolExecutor(clients) as pool:
        running = [pool.submit(client, number) for number in range(clients)]
        while sum(outcomes.values()) < 2 * clients:
            time.sleep(0.05)
        server.process.send_signal(signal.SIGTERM)
        for one in running:
            one.result()
    server.process.wait(60)
    return outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="models/adapter")
    parser.add_argument("--frames", type=Path, default=Path("data/frames"))
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--clients", type=int, default=16)
    arguments = parser.parse_args()
    paths = sorted(arguments.frames.glob("*.jpg"))
    bodies = [path.read_bytes() for path in paths]
    counter = Counter.from_pretrained(arguments.adapter)
    counter.count(paths[:8])
    server = Server(arguments.adapter)
    memory, served, direct = [server.memory()], [], []
    latencies: list[float] = []
    statuses: Tally[int] = Tally()
    share = list(islice(cycle(bodies), arguments.requests // ROUNDS))
    for _ in range(ROUNDS):
        direct.append(frames_per_second(counter, paths[:REFERENCE]))
        seconds, found, got = send_all(server, share, arguments.clients)
        served.append(len(share) / seconds)
        latencies += found
        statuses += got
        memory.append(server.memory())
    report = {
        "requests": len(latencies),
        "clients": arguments.clients,
        "statuses": dict(statuses),
        "requests_a_second": [round(rate, 2) for rate in served],
        "bare_frames_a_second": [round(rate, 2) for rate in direct],
        "ratio": round(float(np.median(served) / np.median(direct)), 3),
        "p50_s": round(float(np.quantile(latencies, 0.5)), 2),
        "p95_s": round(float(np.quantile(latencies, 0.95)), 2),
        "memory_mb": [round(one) for one in memory],
        "bad_bodies": {name: post(server.connect(), body) for name, body in bad_bodies(bodies[0])},
        "at_sigterm": dict(at_sigterm(server, bodies, arguments.clients)),
    }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
