"""Says in words what an MLflow run is. MLflow shows it as the description of the run."""

import json
from typing import Any

NOTE = "mlflow.note.content"
"""MLflow's tag for the description."""
RESULT = "MAE "
OURS = (RESULT, "Training: ", "Preparing", "Prepared", "Baselines", "Drift")
"""How a first paragraph that we have written begins."""
BASELINES = ("train_mean", "blind_interpolation", "zero_shot", "ridge_features")
ENDS = {"FAILED": " It failed.", "KILLED": " It was stopped before its end."}


def describe_run(client: Any, run_id: str) -> None:
    """Writes the description of a run, or brings its first paragraph up to date.

    What somebody has written below it, or in its place, stays. Raises the store's errors.
    """
    run = client.get_run(run_id)
    written = run.data.tags.get(NOTE, "")
    ours, _, rest = written.partition("\n\n")
    if written and not ours.startswith(OURS):
        return
    text = run_description(run, verdict_in_words(run))
    if ours.startswith(RESULT) and text.startswith(RESULT):  # all other paragraphs are there
        text = text.partition("\n\n")[0]
    client.set_tag(run_id, NOTE, "\n\n".join(filter(None, (text, rest))))


def describe_ended(client: Any, run_id: str) -> None:
    """Describes a run at the end of a stage. Not a result: that has its description already."""
    if "key.result" not in client.get_run(run_id).data.tags:
        describe_run(client, run_id)


def describe_all(client: Any, experiment: str) -> None:
    """Describes the runs of older versions, and runs whose process was killed."""
    for run in client.search_runs([experiment]):
        if not run.data.tags.get(NOTE):
            describe_run(client, run.info.run_id)


def verdict_in_words(run: Any) -> str:
    """How a result compares with the champion; empty for another run, or without a champion."""
    if "mae" not in run.data.metrics:
        return ""
    from llava_dvc.tracking.registry import CHAMPION, verdicts  # imports scikit-learn

    said = verdicts([run]).get(run.info.run_id, "")
    if said == CHAMPION:
        return "It counts best so far: it is the champion."
    said = said.replace(": ", ", because it was evaluated on ")  # cannot be compared: other frames
    return f"Against the champion: {said}." if said else ""


def run_description(run: Any, verdict: str) -> str:
    """The description of an mlflow.entities.Run: the error first, then adapter and data."""
    metrics = run.data.metrics
    if "mae" in metrics:
        parts = [result_in_words(metrics), verdict, f"Adapter: {adapter_in_words(run)}."]
        return "\n\n".join(filter(None, (*parts, data_in_words(run))))
    match run.data.tags.get("stage"):
        case "prepare":
            text = prepared_in_words(metrics, run.data.params)
        case "baseline":
            text = baselines_in_words(metrics)
        case "drift":
            text = f"Drift: {run.data.tags.get('answer', 'unknown')}"
        case _:
            validation = metrics.get("val/mae")
            error = "" if validation is None else f" MAE on validation frames: {validation:.2f}."
            text = f"Training: {adapter_in_words(run)}.{error} Not evaluated yet."
    return text + ENDS.get(run.info.status, "")


def result_in_words(metrics: dict[str, float]) -> str:
    """Example: MAE 2.02 people (95 %: 1.42 to 2.63) on 60 held-out frames, smoothed 1.97."""
    ends = [metrics.get(f"mae_ci_{end}") for end in ("low", "high")]
    interval = f" (95 %: {ends[0]:.2f} to {ends[1]:.2f})" if None not in ends else ""
    frames = f" on {metrics['frames']:.0f} held-out frames" if "frames" in metrics else ""
    smoothed = metrics.get("mae_smoothed")
    last = "" if smoothed is None else f", smoothed over time {smoothed:.2f}"
    return f"{RESULT}{metrics['mae']:.2f} people{interval}{frames}{last}."


def adapter_in_words(run: Any) -> str:
    """Example: lora of rank 32 on tiny-llava, learning rate 0.0005, epochs 2, loss ce, seed 17."""
    params = run.data.params
    words = [f"{params.get('adapter.method', 'an adapter')}"]
    if "adapter.r" in params:
        words.append(f" of rank {params['adapter.r']}")
    if "backbone.name" in params:
        words.append(f" on {params['backbone.name'].rpartition('/')[2]}")
    for name in ("train.learning_rate", "train.epochs", "train.loss", "seed"):
        if name in params:
            words.append(f", {name.rpartition('.')[2].replace('_', ' ')} {params[name]}")
    return "".join(words)


def data_in_words(run: Any) -> str:
    """Example: Data: 206 frames to train on, split temporal, data_md5 0b643be."""
    words = []
    for entry in run.inputs.dataset_inputs if run.inputs else ():
        if entry.dataset.name == "data-train":
            words.append(f"{json.loads(entry.dataset.profile)['num_rows']} frames to train on")
    if "split.strategy" in run.data.params:
        words.append(f"split {run.data.params['split.strategy']}")
    if "data_md5" in run.data.tags:
        words.append(f"data_md5 {run.data.tags['data_md5'][:7]}")
    return f"Data: {', '.join(words)}." if words else ""


def prepared_in_words(metrics: dict[str, float], params: dict[str, str]) -> str:
    if "frames" not in metrics:
        return "Preparing the data."
    text = f"Prepared data: {metrics['frames']:.0f} frames, {metrics.get('skipped', 0):.0f} skipped"
    return f"{text}, split {params.get('split.strategy', 'unknown')}."


def baselines_in_words(metrics: dict[str, float]) -> str:
    """Example: Baselines, MAE: train mean 6.37, ridge features 2.28."""
    errors = {name: metrics[f"{name}.mae"] for name in BASELINES if f"{name}.mae" in metrics}
    text = ", ".join(f"{name.replace('_', ' ')} {mae:.2f}" for name, mae in errors.items())
    return f"Baselines on the held-out frames, MAE: {text}." if text else "Baselines."
