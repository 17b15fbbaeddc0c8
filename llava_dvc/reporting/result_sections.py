"""The sections of a report that equal results have in common: data, settings, errors, plots."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from llava_dvc.checks.presets import Difference
from llava_dvc.config import Config
from llava_dvc.errors import few_frames, not_found
from llava_dvc.evaluation.improvement import RIVALS, Improvement, verdict
from llava_dvc.evaluation.plots import worst_places
from llava_dvc.files import WORST
from llava_dvc.metrics import mae_interval
from llava_dvc.reporting.blocks import Links, Picture, ReportSection, Table, Text

NONE = "-"
PLOTS = {
    "prediction_vs_truth.png": "Counts against labels",
    "count_over_time.png": "Counts over time",
    "error_by_count.png": "Error by true count",
    "confusion.png": "Ranges confused with each other",
    "reliability.png": "Reliability of the intervals",
    WORST: "The frames with the largest errors",
}


@dataclass(frozen=True)
class ReportFacts:
    """What a report says of a result."""

    cfg: Config
    preset: str
    differences: list[Difference]
    """From the preset."""
    report: dict[str, Any]
    """Content of prepared/report.json."""
    baseline: dict[str, dict[str, float]]
    metrics: dict[str, Any]
    predictions: Path
    answers: Path
    """Of the baselines."""
    improvements: dict[str, Improvement]
    plots: Path
    frames: str | None
    """The way from the report to the frames; None if the workspace has other frames."""


def data_section(facts: ReportFacts) -> ReportSection:
    """The frames, their split, and how far the split leaks."""
    report, split = facts.report, facts.cfg.split
    rows = tuple(
        (name, str(part["frames"]), f"{part['mean']:.1f}")
        for name, part in report["splits"].items()
    )
    counts = [int(count) for count in report["histogram"]]
    left_out, skipped = len(report["left_out"]), len(report["rejected"])
    waiting = f" {report['unlabelled']} frames have no label." if "unlabelled" in report else ""
    zone = facts.cfg.data.zone
    area = f" in the zone {zone}" if zone else ""
    text = (
        f"{report['frames']} frames with {min(counts)} to {max(counts)} people{area}. The split is "
        f"{split.strategy}: {left_out} frames between the parts are left out. {skipped} invalid "
        f"rows or files were skipped.{waiting} DVC's md5 of the data is {report['data_md5']}."
    )
    table = Table(("split", "frames", "mean number of people"), rows)
    return ReportSection("Data", (Text(text), table, *_cameras(report)))


def _cameras(report: dict[str, Any]) -> tuple[Table, ...]:
    cameras = report.get("cameras", {})
    parts = ("train", "val", "eval")
    rows = tuple((name, *(str(n[part]) for part in parts)) for name, n in cameras.items())
    return (Table(("camera", *parts), rows),) if rows else ()


def settings_section(facts: ReportFacts) -> ReportSection:
    """The settings that differ from the nearest preset."""
    if not facts.differences:
        return ReportSection(
            "Settings", (Text(f"All settings are those of the preset {facts.preset}."),)
        )
    rows = tuple(
        (one.setting, _setting_text(one.preset), _setting_text(one.value))
        for one in facts.differences
    )
    text = Text(f"The nearest preset is {facts.preset}. These settings differ from it:")
    return ReportSection("Settings", (text, Table(("setting", facts.preset, "here"), rows)))


def _setting_text(value: Any) -> str:
    return "null" if value is None else str(value).lower() if value in (True, False) else str(value)


def error_section(facts: ReportFacts) -> ReportSection:
    """The adapter's error beside those of the baselines, each with its interval."""
    metrics, baseline = facts.metrics, facts.baseline
    answers = pd.read_csv(facts.answers)
    rows = [_baseline_row(name, row, answers, facts) for name, row in baseline.items()]
    interval = (metrics["mae_ci_low"], metrics["mae_ci_high"])
    rows.append(("adapter", *_figures(metrics, interval), NONE))
    if "mae_smoothed" in metrics:
        smoothed = f"{metrics['mae_smoothed']:.2f}"
        rows.append(("adapter, smoothed over time", smoothed, NONE, NONE, NONE, NONE))
    rivals = {name: row["mae"] for name, row in baseline.items()}
    head = ("", "MAE", "95 % interval", "RMSE", "exact", "the adapter is")
    meaning = (
        f"MAE and RMSE are in people, on {metrics['frames']} held-out frames. The counts are off "
        f"by {metrics['bias']:+.2f} people on average. The 80 % interval of a count is "
        f"{metrics['width_80']:.1f} people wide on average, and holds the label of "
        f"{metrics['coverage_80']:.0%} of the frames."
    )
    sentence = verdict(metrics["mae"], rivals, facts.improvements).replace("_", " ")
    table = Table(head, tuple(rows))
    few = few_frames(metrics["frames"])
    warning = (Text(few),) if few else ()
    return ReportSection(
        "Error", (*warning, Text(sentence), table, Text(meaning), *_groups(metrics))
    )


def _baseline_row(
    name: str, row: dict[str, float], answers: pd.DataFrame, facts: ReportFacts
) -> tuple[str, ...]:
    if name not in RIVALS:  # its answers are not kept
        return (name.replace("_", " "), *_figures(row, None), NONE)
    counts, theirs = (answers[c].to_numpy(dtype=np.float64) for c in ("count", name))
    figures = _figures(row, mae_interval(counts, theirs))
    return (name.replace("_", " "), *figures, str(facts.improvements[name]))


def _figures(row: dict[str, Any], interval: tuple[float, float] | None) -> tuple[str, ...]:
    shown = f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else NONE
    return f"{row['mae']:.2f}", shown, f"{row['rmse']:.2f}", f"{row['accuracy']:.1%}"


def _groups(metrics: dict[str, Any]) -> tuple[Table, ...]:
    """The errors by true count, and by camera if there are several."""
    kinds = {"bins": "true count", "cameras": "camera"}
    return tuple(
        Table(
            (title, "frames", "MAE", "bias"),
            tuple(
                (name, str(row["frames"]), f"{row['mae']:.2f}", f"{row['bias']:+.2f}")
                for name, row in metrics[kind].items()
            ),
        )
        for kind, title in kinds.items()
        if kind in metrics
    )


def plot_section(facts: ReportFacts, with_frames: bool) -> ReportSection:
    """Every plot. The worst frames show people, and can be left out."""
    names = [name for name in PLOTS if with_frames or name != WORST]
    pictures = tuple(_picture(facts.plots / name) for name in names)
    links = _worst_links(facts) if with_frames else ()
    return ReportSection("Plots", (*pictures, *links))


def _worst_links(facts: ReportFacts) -> tuple[Links, ...]:
    """The worst frames as they are in data/frames. They are not copied into the report."""
    if facts.frames is None:
        return ()
    table = pd.read_csv(facts.predictions)
    rows = [table.loc[place] for place in worst_places(table)]
    links = tuple(
        (
            f"{row['frame']}: {row['count']} people, counted {row['predicted']}",
            f"{facts.frames}/{quote(str(row['frame']))}",
        )
        for row in rows
    )
    return (Links("The same frames at their full size, on this machine:", links),)


def _picture(path: Path) -> Picture:
    try:
        return Picture(path.name, PLOTS[path.name], path.read_bytes())
    except FileNotFoundError:
        raise not_found(path) from None
