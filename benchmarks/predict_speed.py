"""Speed of `llava-dvc predict` beside that of the evaluation stage, on the same frames.

    python -m benchmarks.predict_speed [--rounds 5]

Both run in this process and take turns, so that a busy machine slows both: files are found, decoded
and counted as predict does, and `counting.predict` goes over the prepared split as evaluate does.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--adapter", default="models/adapter")
    parser.add_argument("--prepared", type=Path, default=Path("prepared"))
    parser.add_argument("--frames", type=Path, default=Path("data/frames"))
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    counter = Counter.from_pretrained(arguments.adapter)
    rows = load_split(arguments.prepared, "eval")
    paths = [arguments.frames / name for name in rows["frame"]]
    counter.count(paths[:8])

    def evaluated() -> None:
        counter.predictor.predict(rows["image"], counter.batch_size)

    def predicted() -> None:
        assert len(list(count_paths(counter, paths, 1.0, []))) == len(rows)

    seconds: dict[str, list[float]] = {"evaluate": [], "predict": []}
    for _ in range(arguments.rounds):
        for name, run in {"evaluate": evaluated, "predict": predicted}.items():
            began = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - began)
    rates = {name: [round(len(rows) / one, 2) for one in found] for name, found in seconds.items()}
    speed = {name: statistics.median(found) for name, found in rates.items()}
    ratio = round(speed["predict"] / speed["evaluate"], 3)
    sys.stdout.write(json.dumps({"frames_a_second": rates, "ratio": ratio}, indent=2) + "\n")


if __name__ == "__main__":
    main()
