"""Rate, latency and memory of `llava-dvc watch`.

    python -m benchmarks.watch_cameras --seconds 300 rtsp://HOST/1 rtsp://HOST/2
    python -m benchmarks.watch_cameras --seconds 90 --every 1 --realtime $(yes clip.mp4 | head -60)

It runs the command and follows its rows. The latency is the time from a frame's arrival to its row.
A row may come while other frames are counted, so the memory of one moment says little.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

POLL = 0.005  # seconds
WARM_UP = 60.0  # seconds, before which memory still grows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--adapter", default="models/adapter")
    parser.add_argument("--every", default="2")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--realtime", action="store_true", help="sources are files")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [Path(sys.executable).with_name("llava-dvc"), "watch", *arguments.sources]
        command += ["--adapter", arguments.adapter, "--every", arguments.every, "--port", "0"]
        command += ["--realtime"] if arguments.realtime else []
        process = subprocess.Popen([*command, "--out", folder])
        try:
            follow(process.pid, Path(folder), arguments.seconds)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def follow(pid: int, folder: Path, seconds: float) -> None:
    """Reads rows as they come, and prints the figures."""
    process, started = psutil.Process(pid), 0.0
    latencies, times, used = [], defaultdict(list), []
    read: dict[Path, int] = {}
    start = 0.0
    while not start or time.time() - start < seconds:
        time.sleep(POLL)
        lines = new_lines(folder, read)
        now = datetime.now(UTC)
        if lines and not start:
            start, started = time.time(), busy_seconds(process)
        for row in map(json.loads, lines):
            came = datetime.fromisoformat(row["time"])
            latencies.append((now - came).total_seconds())
            times[row["camera"]].append(came.timestamp())
        if lines:
            used.append((time.time() - start, process.memory_info().rss / 1e6))
        busy = busy_seconds(process)
    report(latencies, times, used, seconds)
    sys.stdout.write(f"processor time: {(busy - started) / seconds:.2f} cores\n")


def new_lines(folder: Path, read: dict[Path, int]) -> list[bytes]:
    """Returns the rows that have come. `read` is how many bytes of each file are of rows before."""
    lines = []
    for path in sorted(folder.glob("*.jsonl")):
        with path.open("rb") as file:
            file.seek(read.get(path, 0))
            text = file.read()
        whole = text.rfind(b"\n") + 1  # a row may be half written
        read[path] = read.get(path, 0) + whole
        lines += text[:whole].splitlines()
    return lines


def busy_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def report(latencies, times, used, seconds: float) -> None:
    half, most = np.quantile(latencies, [0.5, 0.95])
    minutes = defaultdict(list)
    for at, size in used:
        minutes[int(at / WARM_UP)].append(size)
    warm = [np.median(sizes) for minute, sizes in minutes.items() if minute] or [used[-1][1]]
    sizes = [size for _, size in used]
    sys.stdout.write(
        f"{len(latencies)} readings of {len(times)} cameras in {seconds:g} s, "
        f"{len(latencies) / seconds:.2f} a second\n"
        f"latency: median {half:.2f} s, p95 {most:.2f} s, longest {max(latencies):.2f} s\n"
        f"longest pause of a camera: {max(np.diff(one).max() for one in times.values()):.2f} s\n"
        f"memory after {WARM_UP:g} s: {warm[0]:.0f} MB, then from {min(warm):.0f} to "
        f"{max(warm):.0f} MB (medians of a minute), at the end {warm[-1]:.0f} MB; "
        f"all values from {min(sizes):.0f} to {max(sizes):.0f} MB\n"
    )


if __name__ == "__main__":
    main()
