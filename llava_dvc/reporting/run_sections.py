"""The sections of a report that come from MLflow: curves, and what differs from run to run."""

import io
from itertools import pairwise
from statistics import fmean

import matplotlib

from llava_dvc.reporting.blocks import Picture, ReportSection, Table, Text
from llava_dvc.reporting.logged_run import Curve, LoggedRun

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LOSS, ERROR = "#1f6f8b", "#d1495b"
NOT_LOGGED = Text("MLflow has no run of this result. `dvc repro -f -s evaluate` logs it again.")


def curve_section(run: LoggedRun | None) -> ReportSection:
    """The loss and the validation error over the steps."""
    if run is None or not run.curves:
        return ReportSection("Training", (NOT_LOGGED,))
    loss, error = run.curves.get("train/loss", []), run.curves.get("val/mae", [])
    head = ("step", "mean loss since the row before", "MAE on the validation frames")
    table = Table(head, tuple(_curve_rows(loss, error)))
    picture = Picture("curves.png", "Loss and validation error", draw_curves(loss, error))
    return ReportSection("Training", (table, picture))


def _curve_rows(loss: Curve, error: Curve) -> list[tuple[str, str, str]]:
    """One row for every validation."""
    steps = [0, *(step for step, _ in error)]
    rows = []
    for (before, step), (_, mae) in zip(pairwise(steps), error, strict=True):
        since = [value for at, value in loss if before < at <= step]
        rows.append((str(step), f"{fmean(since):.3f}" if since else "-", f"{mae:.2f}"))
    return rows


def draw_curves(loss: Curve, error: Curve) -> bytes:
    """A PNG with the loss above the validation error. The same curves give the same bytes."""
    figure, (above, below) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    above.plot([s for s, _ in loss], [v for _, v in loss], color=LOSS, linewidth=1.2)
    above.set(ylabel="loss", title="Training")
    below.plot([s for s, _ in error], [v for _, v in error], color=ERROR, marker="s", markersize=5)
    below.set(xlabel="step", ylabel="validation MAE, people", xlim=(0, None))
    below.set_ylim(0, 1.15 * max((v for _, v in error), default=1))
    for axes in (above, below):
        axes.grid(alpha=0.2)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, metadata={"Software": None}, format="png")
    plt.close(figure)
    return file.getvalue()


def run_section(run: LoggedRun | None, price: float | None) -> ReportSection:
    """Minutes, memory, machine and cost: they differ even between runs with equal results.

    `price` is that of the machine for an hour, in any currency.
    """
    title = "This run (differs from run to run)"
    if run is None:
        return ReportSection(title, (NOT_LOGGED,))
    tags = run.tags
    state = " with changes that are not committed" if tags.get("dirty") == "true" else ""
    rows = (
        ("MLflow run", f"{run.name} ({run.run_id})"),
        ("began", run.began),
        ("git revision", f"{tags.get('git_revision', 'unknown')}{state}"),
        ("machine", tags.get("machine") or "not recorded"),
        ("platform", tags.get("platform", "unknown")),
        *((name, tags[f"version.{name}"]) for name in _packages(tags)),
    )
    return ReportSection(title, (*_usage_blocks(run, price), Table(("", "value"), rows)))


def _packages(tags: object) -> list[str]:
    names = ("python", "llava-dvc", "torch", "transformers", "trl", "peft", "bitsandbytes")
    return [name for name in names if isinstance(tags, dict) and f"version.{name}" in tags]


def _usage_blocks(run: LoggedRun, price: float | None) -> tuple[Text | Table, ...]:
    if not run.usage:
        return (Text("Minutes and memory are not recorded: an older version made this run."),)
    on_gpu = any(use.gpu_memory is not None for use in run.usage.values())
    head = ("stage", "minutes", "peak memory, GiB", *(["peak GPU memory, GiB"] if on_gpu else []))
    rows = tuple(
        (
            stage,
            f"{use.minutes:.1f}",
            f"{use.memory:.2f}",
            *([f"{use.gpu_memory:.2f}" if use.gpu_memory is not None else "-"] if on_gpu else []),
        )
        for stage, use in run.usage.items()
    )
    minutes = sum(use.minutes for use in run.usage.values())
    text = f"{minutes:.1f} minutes in all."
    if price is not None:
        text += f" At {price:g} an hour they cost {minutes / 60 * price:.2f}."
    return (Table(head, rows), Text(text))
