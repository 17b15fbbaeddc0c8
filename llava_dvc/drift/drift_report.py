"""`llava-dvc drift`: a report that says whether frames should be labelled again, and why."""

import math
from collections.abc import Sequence
from pathlib import Path

from llava_dvc.drift.compare import (
    FARTHER,
    FEWEST_DAYS,
    FEWEST_HOURS,
    OTHERS_SHARE,
    WIDER,
    ZoneReadings,
    daily_means,
    split_zones,
)
from llava_dvc.drift.drift_pictures import draw_zone
from llava_dvc.drift.read_rows import read_readings
from llava_dvc.drift.training_facts import TrainingFacts
from llava_dvc.errors import UserError
from llava_dvc.reporting.blocks import Picture, ReportSection, Table, Text
from llava_dvc.reporting.report import require_report_folder, write_report
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.tracking.drift_run import DriftFigures, log_drift

UNKNOWN = "-"


def make_drift_report(paths: Sequence[Path], adapter: str | Path, days: int, folder: Path) -> str:
    """Writes the report into `folder`, logs it, and returns its first sentence.

    Raises UserError for files or an adapter that cannot be used, and when no camera has readings of
    FEWEST_HOURS hours of the period.
    """
    require_report_folder(folder)
    facts = TrainingFacts.read(find_adapter(adapter))
    rows = read_readings(paths)
    zones = split_zones(rows, days, facts)
    _require_readings(zones, days)
    _require_adapter(zones, facts.adapter, adapter)
    answer = answer_sentence(zones, days)
    sections = [
        ReportSection("Label again?", (Text(answer), _zone_table(zones), *_notes(zones, facts))),
        ReportSection("What it is compared with", (Text(_comparison(facts)),)),
        *(_picture_section(number, zone) for number, zone in enumerate(zones, 1) if len(zone.rows)),
    ]
    write_report(f"Drift of the readings: the {_period(days)}", sections, folder)
    ends = [str(rows["time"].iloc[place].isoformat()) for place in (0, -1)]
    key = [facts.adapter, days, len(rows), *ends, sorted(zone.name for zone in zones)]
    log_drift(DriftFigures(answer, days, facts.adapter, _metrics(zones), key), folder)
    return answer


def answer_sentence(zones: Sequence[ZoneReadings], days: int) -> str:
    """Whether to label again, and why."""
    found = [f"{zone.name}: {', and '.join(signs)}" for zone in zones if (signs := zone.signs())]
    if found:
        return f"Label again, because of {'; '.join(found)}."
    known = ", ".join(zone.name for zone in zones if zone.is_enough)
    return (
        f"No need to label again: in the {_period(days)}, the readings of {known} differ from the "
        "training by no more than the limits below."
    )


def _period(days: int) -> str:
    return "last day" if days == 1 else f"last {days} days"


def _require_readings(zones: Sequence[ZoneReadings], days: int) -> None:
    most = max((len(zone.hours) for zone in zones), default=0)
    if most < FEWEST_HOURS:
        raise UserError(
            f"--days {days}: no camera has readings that can be used of {FEWEST_HOURS} hours of "
            f"this period; the most is {most}. Add the files of more days."
        )


def _require_adapter(zones: Sequence[ZoneReadings], known: str, adapter: str | Path) -> None:
    """Raises UserError when other adapters have counted. Old rows name none."""
    found = sorted({name for zone in zones for name in zone.rows["adapter"].unique() if name})
    if len(found) > 1:
        raise UserError(
            f"the readings are of {len(found)} adapters ({', '.join(found)}), and two adapters "
            "cannot be compared. Name only the files of one, or take --days 1."
        )
    if found and found[0] != known:
        raise UserError(
            f"--adapter {adapter}: is {known}, and the readings are of {found[0]}. Name the "
            "adapter that has counted them."
        )


def _zone_table(zones: Sequence[ZoneReadings]) -> Table:
    head = (
        "camera/zone", "hours", "people", "not within the held-out labels", "interval width",
        "distance", "unlike training", "blind pictures", "",
    )  # fmt: skip
    return Table(head, tuple(map(_zone_row, zones)))


def _zone_row(zone: ZoneReadings) -> tuple[str, ...]:
    before = daily_means(zone.before, "people")
    then = f" (before: {before.mean():.1f})" if len(before) >= FEWEST_DAYS else ""
    verdict = ("label again" if zone.signs() else "no need") if zone.is_enough else "too few"
    return (
        zone.name,
        str(len(zone.hours)),
        f"{_number(zone.mean('people'), '.1f')}{then}",
        _number(zone.mean("outside"), ".1%") if zone.is_evaluated else UNKNOWN,
        _number(zone.mean("width"), ".1f"),
        _number(zone.mean("distance"), ".2f"),
        _number(zone.mean("unlike"), ".1%"),
        str(zone.blind),
        verdict,
    )


def _number(value: float, form: str) -> str:
    return UNKNOWN if math.isnan(value) else format(value, form)


def _notes(zones: Sequence[ZoneReadings], facts: TrainingFacts) -> list[Text]:
    """What the sentence does not know."""
    notes = []
    if not all(zone.is_evaluated for zone in zones):
        notes.append("The evaluation did not count in all zones: of others only distances are "
                     "compared with the training.")  # fmt: skip
    if not facts.knows_scenes:
        notes.append("The adapter does not know how its training frames look: no distance is "
                     "known. `dvc repro` makes one that does.")  # fmt: skip
    if any((zone.rows["adapter"] == "").any() for zone in zones):
        notes.append("Some rows do not say which adapter has counted: an older version wrote them.")
    return list(map(Text, notes))


def _comparison(facts: TrainingFacts) -> str:
    return (
        f"Adapter {facts.adapter}. The published folder does not keep the counts of the training "
        "frames. So counts and intervals are compared with those of its evaluation, on "
        f"{facts.frames} frames that were held out: labels within {facts.fewest} to {facts.most} "
        f"people, intervals {facts.width:.1f} people wide on average. One in a thousand training "
        "frames has a distance above 1. A camera is marked if, on average over the hours and "
        f"beyond chance, over {OTHERS_SHARE:.0%} of its pictures are unlike the training frames, "
        f"over {OTHERS_SHARE:.0%} of its counts are not within these labels, or its intervals are "
        f"over {WIDER:g} times as wide. It is also marked if its pictures are over {FARTHER:g} "
        f"times as far from the training frames as in the days before, if the files have "
        f"{FEWEST_DAYS}. More or fewer people alone are no reason to label."
    )


def _picture_section(number: int, zone: ZoneReadings) -> ReportSection:
    title = f"{zone.name}: this period, the days before, and the training"
    return ReportSection(zone.name, (Picture(f"camera-{number}.png", title, draw_zone(zone)),))


def _metrics(zones: Sequence[ZoneReadings]) -> dict[str, float]:
    columns = ("people", "width", "distance", "unlike")
    values = {f"{zone.name}.{name}": zone.mean(name) for zone in zones for name in columns}
    marked = sum(bool(zone.signs()) for zone in zones)
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return {**known, "marked": float(marked)}
