"""Measures `dvc repro` with nothing to do, and after a change in `evaluate`.

    python -m benchmarks.loop_speed [--rounds 7]

Run it in a repository where `dvc repro` has just run. A repository with one toy stage is measured
for comparison. The change of `evaluate.batch_size` is undone at the end.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

TOY = "stages:\n  toy:\n    cmd: echo done > out\n    outs: [out]\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        toy = make_toy(Path(folder))
        for place in (here, toy):
            repro(place)  # warm up
        rounds = [(repro(toy), repro(here)) for _ in range(arguments.rounds)]
    small, ours = (statistics.median(column) for column in zip(*rounds, strict=True))
    sys.stdout.write(
        f"nothing to do: {ours:.2f} s, toy {small:.2f} s, {ours / small:.2f} times "
        f"(medians of {arguments.rounds} rounds in turn)\n"
    )
    with changed(here / "params.yaml"):
        sys.stdout.write(f"after a change in evaluate: {repro(here, '--no-run-cache'):.1f} s\n")
    repro(here)


def make_toy(folder: Path) -> Path:
    for command in ("git init -q", "dvc init -q"):
        subprocess.run(command.split(), cwd=folder, check=True)
    (folder / "dvc.yaml").write_text(TOY)
    return folder


def repro(folder: Path, *options: str) -> float:
    """Returns the seconds of one `dvc repro`."""
    start = time.perf_counter()
    subprocess.run(["dvc", "repro", *options], cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


@contextmanager
def changed(params: Path) -> Iterator[None]:
    """Increases `evaluate.batch_size` by one inside the `with` block."""
    before = params.read_text(encoding="utf-8")
    values = yaml.safe_load(before)
    values["evaluate"]["batch_size"] += 1
    params.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    try:
        yield
    finally:
        params.write_text(before, encoding="utf-8")


if __name__ == "__main__":
    main()
