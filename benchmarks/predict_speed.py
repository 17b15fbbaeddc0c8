"""Compares the speed of `llava-dvc predict` to that of the evaluate stage, on the same frames.

    python -m benchmarks.predict_speed [--rounds 5]

Both run in this process and take turns, so that other load on the machine slows both. `predict`
finds, decodes and counts files. `evaluate` runs `counting.predict` on the prepared split.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from llava_dvc import Counter
from llava_dvc.dataset import load_split
from llava_dvc.serving.predict import count_paths
from llava_dvc.serving.sources import Source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="models/adapter")
    parser.add_argument("--prepared", type=Path, default=Path("prepared"))
    parser.add_argument("--frames", type=Path, default=Path("data/frames"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    counter = Counter.from_pretrained(arguments.adapter)
    rows = load_split(arguments.prepared, "eval")
    sources = [Source(arguments.frames / name, is_video=False) for name in rows["frame"]]
    counter.count([source.path for source in sources[:8]])

    def run_evaluate() -> None:
        counter.predictor.predict(rows["image"], counter.batch_size)

    def run_predict() -> None:
        assert len(list(count_paths(counter, sources, 1.0, []))) == len(rows)

    seconds: dict[str, list[float]] = {"evaluate": [], "predict": []}
    for _ in range(arguments.rounds):
        for name, run in {"evaluate": run_evaluate, "predict": run_predict}.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    rates = {name: [round(len(rows) / s, 2) for s in times] for name, times in seconds.items()}
    speed = {name: statistics.median(of_rounds) for name, of_rounds in rates.items()}
    ratio = round(speed["predict"] / speed["evaluate"], 3)
    sys.stdout.write(json.dumps({"frames_a_second": rates, "ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
