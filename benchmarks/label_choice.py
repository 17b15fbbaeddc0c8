"""Measures which 50 frames are best to label: spread in time, random, or by the features.

    python -m benchmarks.label_choice DATA [--labels 50] [--seeds 3] [--features FILE.npy]

DATA is a folder like data/. Ridge on the frozen tower's features is fitted to the chosen frames of
four fifths of the time and measured on the fifth, for each fifth: it takes seconds, where an
adapter takes minutes. FILE keeps the features between two calls.
"""

import argparse
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
from datasets import Dataset, Image
from sklearn.linear_model import Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from llava_dvc.config import load_config
from llava_dvc.data.frames import read_frames
from llava_dvc.evaluation.baselines import tower_features
from llava_dvc.labelling.next_frames import spread_in_time
from llava_dvc.model.backbone import backbone_encoder, load_backbone

BLOCKS, GAP, STRENGTH, PARTS = 5, 2, 1000.0, 20


def main() -> None:
    arguments = parse_arguments()
    frames = read_frames(arguments.data, ())
    counts = np.array([frame.count for frame in frames])
    features = read_features([frame.path for frame in frames], arguments.features)
    errors = defaultdict(list)
    for block in np.array_split(np.arange(len(frames)), BLOCKS):
        far = (np.arange(len(frames)) < block[0] - GAP) | (np.arange(len(frames)) > block[-1] + GAP)
        pool = np.flatnonzero(far)
        for seed in range(arguments.seeds):
            for name, chosen in choices(pool, features, counts, arguments.labels, seed).items():
                fitted = fit(features[chosen], counts[chosen])
                error = np.abs(fitted.predict(features[block]) - counts[block]).mean()
                errors[name].append(error)
    for name, values in errors.items():
        seeds = np.reshape(values, (BLOCKS, arguments.seeds)).mean(axis=0).round(2)
        sys.stdout.write(f"{name:22} MAE {np.mean(values):.2f}, by seed {seeds}\n")


def choices(
    pool: np.ndarray, features: np.ndarray, counts: np.ndarray, labels: int, seed: int
) -> dict[str, np.ndarray]:
    """Positions of the frames that each way chooses of `pool`."""
    rng = np.random.default_rng(seed)
    start = int(rng.integers(0, len(pool)))

    def even(number: int) -> np.ndarray:
        steps = np.linspace(0, len(pool) - 1, number).round().astype(int)
        return pool[(steps + start) % len(pool)]

    names = [str(place) for place in pool]
    spread = spread_in_time(names, ["."] * len(pool), (), labels)
    return {
        "spread in time": np.array(list(map(int, spread))),
        "even": even(labels),
        "random": rng.choice(pool, labels, replace=False),
        "unseen features": unlike(pool, features, labels, start),
        "half even, half unsure": unsure(pool, features, counts, even(labels // 2), labels, rng),
    }


def unlike(pool: np.ndarray, features: np.ndarray, labels: int, start: int) -> np.ndarray:
    """Each next frame is the farthest from all before, in the first PARTS principal parts."""
    u, s, _ = np.linalg.svd(StandardScaler().fit_transform(features), full_matrices=False)
    parts = (u * s)[pool, :PARTS]
    chosen = [start]
    away = np.linalg.norm(parts - parts[start], axis=1)
    while len(chosen) < labels:
        chosen.append(int(away.argmax()))
        away = np.minimum(away, np.linalg.norm(parts - parts[chosen[-1]], axis=1))
    return pool[chosen]


def unsure(
    pool: np.ndarray,
    features: np.ndarray,
    counts: np.ndarray,
    first: np.ndarray,
    labels: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """The `first` frames, and those on which ten fits to samples of them differ most."""
    known = np.unique(first)
    samples = [rng.choice(known, len(known)) for _ in range(10)]
    guesses = [fit(features[s], counts[s]).predict(features[pool]) for s in samples]
    order = pool[np.argsort(-np.std(guesses, axis=0))]
    return np.concatenate([known, order[~np.isin(order, known)][: labels - len(known)]])


def fit(features: np.ndarray, counts: np.ndarray) -> Pipeline:
    return make_pipeline(StandardScaler(), Ridge(STRENGTH)).fit(features, counts)


def read_features(paths: list[Path], kept: Path | None) -> np.ndarray:
    if kept and kept.exists():
        return np.load(kept)
    cfg = load_config()
    rows = Dataset.from_dict({"image": list(map(str, paths))}).cast_column("image", Image())
    model, encoder = load_backbone(cfg.backbone), backbone_encoder(cfg.backbone, cfg.image)
    features = tower_features(model, encoder, rows)
    if kept:
        np.save(kept, features)
    return features


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--features", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
