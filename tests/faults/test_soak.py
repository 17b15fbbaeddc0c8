"""Ten minutes of `llava-dvc serve` with ordinary clients and attackers, in 3 GB of memory.

The service and its decoders are in a memory control group of 3 GB if the machine allows it (version
1 or 2, as root). Then the kernel ends what needs more, and the test fails. Elsewhere the resident
memory of all its processes is summed four times a second, and the test fails above 3 GB.

The attackers come in rounds, with a pause after each. Memory is flat if at the end of the last
pause it is at most a tenth above the most of the first three. They fill caches and pools.

`FAULTS_SOAK` is another number of seconds.
"""

import contextlib
import os
import statistics
import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.conftest import frame
from tests.faults import attacks
from tests.serving.conftest import ServiceProcess
from tests.serving.requests import FORM, JPEG, encoded, form

SECONDS = float(os.environ.get("FAULTS_SOAK", "600"))
ROUNDS = 10
PAUSE = 0.25
"""Of a round, at its end."""
MEMORY_BYTES = 3 * 2**30
ANSWER_SECONDS = 60.0
CLIENTS = 4
LIMITS = {
    Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
    Path("/sys/fs/cgroup"): "memory.max",
}


@contextlib.contextmanager
def memory_group() -> Iterator[Path | None]:
    """A control group of MEMORY_BYTES; None if the machine does not allow one."""
    for parent, limit in LIMITS.items():
        folder = parent / f"llava-dvc-soak-{os.getpid()}"
        try:
            folder.mkdir()
            # Opened as it is: where this is an ordinary folder, the kernel made no file in it.
            with (folder / limit).open("r+") as file:
                file.write(str(MEMORY_BYTES))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        try:
            yield folder
        finally:
            folder.rmdir()
        return
    yield None


class Memory:
    """Samples the memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        self.process = psutil.Process(pid)
        self.command = self.process.cmdline()
        self.peak = 0
        self.of_service = 0
        """Without the decoders."""

    def now(self) -> int:
        """Resident bytes."""
        total = self.of_service = self.process.memory_info().rss
        for one in self.process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                # A child that has not yet started its program shares the memory of the service.
                if one.cmdline() != self.command:
                    total += one.memory_info().rss
        self.peak = max(self.peak, total)
        return total

    def watch(self, stop: threading.Event) -> None:
        while not stop.wait(0.25):
            self.now()


class Client:
    """Asks for counts and health as an ordinary client does, and keeps the seconds of each."""

    def __init__(self, service: ServiceProcess) -> None:
        self.service = service
        self.seconds: dict[str, list[float]] = {"POST": [], "GET": []}
        self.unanswered: list[str] = []
        self.statuses: Tally[int] = Tally()

    def run(self, number: int, stop: threading.Event) -> None:
        whole = encoded(frame(number, (640, 480)), ("JPEG", "PNG", "WEBP", "BMP")[number % 4])
        body, headers = (form(whole), FORM) if number % 2 else (whole, JPEG)
        while not stop.wait(0.2):
            self.measure("POST", "/count", body, headers)
            self.measure("GET", "/health", None, {})

    def measure(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
        """Asks again after a 503, as its Retry-After says; the seconds are of all attempts."""
        start, status = time.monotonic(), 503
        while status == 503 and time.monotonic() - start < ANSWER_SECONDS:
            try:
                status, answer = self.service.ask(method, path, body, headers)
            except OSError as error:
                status, answer = 0, repr(error).encode()
            self.statuses[status] += 1
            if status == 503:
                time.sleep(5)
        self.seconds[method].append(time.monotonic() - start)
        if status != 200:
            self.unanswered.append(f"{method} {path}: {status} {answer[:100]!r}")


def start_service(adapter: Path, group: Path | None) -> ServiceProcess:
    """In `group`, which its child processes inherit."""
    if group is None:
        return ServiceProcess(adapter)
    join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
    return ServiceProcess(adapter, prefix=("sh", "-c", join, "sh"))


def killed_for_memory(group: Path) -> int:
    """How many processes of the group the kernel has ended."""
    found = (group / name for name in ("memory.oom_control", "memory.events"))
    text = next(path for path in found if path.exists()).read_text()
    return int(dict(line.split() for line in text.splitlines())["oom_kill"])


def test_ten_minutes_of_attacks_harm_no_ordinary_client(adapter_folder):
    with memory_group() as group:
        service = start_service(adapter_folder, group)
        client, memory, over = Client(service), Memory(service.process.pid), threading.Event()
        pictures = attacks.picture_attacks()
        try:
            with ThreadPoolExecutor(CLIENTS + 1) as threads:
                threads.submit(memory.watch, over)
                running = [threads.submit(client.run, n, over) for n in range(CLIENTS)]
                try:
                    rests = [attack_round(service, memory, pictures) for _ in range(ROUNDS)]
                finally:
                    over.set()
            for one in running:
                one.result()
            ended = service.process.poll()
            kills = killed_for_memory(group) if group else 0
        finally:
            service.stop()
    report(client, memory, rests, pictures, group)
    assert ended is None, "the service ended"
    assert kills == 0, "a process was killed for its memory"
    assert memory.peak <= MEMORY_BYTES
    assert client.unanswered == []
    assert max(max(found) for found in client.seconds.values()) <= ANSWER_SECONDS
    assert rests[-1] <= 1.1 * max(rests[:3]), rests
    answers = sum((attack.statuses for attack in pictures), Tally())
    assert set(answers) <= {0, 200, 400, 413, 503}, answers


def attack_round(service: ServiceProcess, memory: Memory, pictures: list[attacks.Pictures]) -> int:
    """Attacks, then pauses; returns the memory at the end of the pause."""
    stop = threading.Event()
    length = SECONDS / ROUNDS
    every: list[attacks.Attack] = [
        *pictures, attacks.silent, attacks.slow, attacks.unfinished, attacks.odd_requests,
        attacks.unread,
    ]  # fmt: skip
    with ThreadPoolExecutor(len(every)) as threads:
        running = [threads.submit(attack, service.port, stop) for attack in every]
        time.sleep(length * (1 - PAUSE))
        stop.set()
    for one in running:
        one.result()  # raises what the attack raised
    time.sleep(length * PAUSE)
    return memory.now()


def report(client, memory, rests, pictures, group) -> None:
    """Prints the figures; pytest shows them with -s."""
    mega = [round(bytes_ / 1e6) for bytes_ in rests]
    lines = [f"limit: {'control group' if group else 'watched'}"]
    for method, seconds in client.seconds.items():
        middle, slowest = statistics.median(seconds), max(seconds)
        lines.append(f"{method}: {len(seconds)}, median {middle:.2f} s, slowest {slowest:.2f} s")
    lines.append(f"statuses of ordinary clients: {dict(client.statuses)}")
    lines.append(f"answers to pictures: {[dict(attack.statuses) for attack in pictures]}")
    lines.append(f"memory of the service without decoders: {memory.of_service / 1e6:.0f} MB")
    lines.append(f"memory in MB: peak {memory.peak / 1e6:.0f}, after each round {mega}")
    sys.stdout.write("\n" + "\n".join(lines) + "\n")
