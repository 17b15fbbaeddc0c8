"""`llava-dvc label`: which frames go to annotators, and which answers come back."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llava_dvc.errors import UserError
from llava_dvc.labelling.bring_answers import StudioSource, bring_answers
from llava_dvc.labelling.doubtful_labels import DoubtfulLabel, doubtful_labels, doubtful_table
from llava_dvc.labelling.guesses import guess_counts
from llava_dvc.labelling.label_pool import LabelPool
from llava_dvc.labelling.next_frames import spread_in_time
from llava_dvc.labelling.send_frames import (
    TaskMaker,
    open_project,
    send_frames,
    sent_frames,
    write_tasks,
)
from llava_dvc.labelling.studio_server import StudioServer
from llava_dvc.labelling.studio_tasks import Guess
from llava_dvc.serving.adapter_source import DEFAULT_ADAPTER


@dataclass(frozen=True)
class LabelPlan:
    """What `llava-dvc label` is asked for."""

    number: int
    """Frames that are to wait for an answer."""
    heads: bool
    """Annotators mark heads."""
    doubtful: bool
    """Frames with a doubtful label, instead of frames without one."""
    project: str
    adapter: str | Path
    zone: str | None = None
    """A zone whose outline annotators can draw."""


def write_task_file(pool: LabelPool, plan: LabelPlan, path: Path) -> None:
    """Writes the tasks of the next frames for an import by hand; raises UserError."""
    names, guesses = _choose(pool, plan, sent={})
    write_tasks(names, TaskMaker(pool, guesses, plan.heads, plan.zone), path)
    form = path.with_suffix(".xml")
    sys.stdout.write(
        f"{path}: {len(names)} tasks. In Label Studio, paste {form} under Labeling Interface > "
        f"Code, then import {path.name}.\n"
    )


def send_to_server(pool: LabelPool, plan: LabelPlan, server: StudioServer) -> None:
    """Adds tasks to the project until the wanted number waits for an answer; raises UserError."""
    project = open_project(server, plan.project, plan.heads, plan.zone)
    sent = sent_frames(server.export(project))
    waiting = sum(sent.values())
    names, guesses = _choose(pool, plan, sent) if waiting < plan.number else ([], {})
    send_frames(names, TaskMaker(pool, guesses, plan.heads), server, project)
    sys.stdout.write(
        f"{server.url}/projects/{project.id}: {len(names)} new tasks, {waiting + len(names)} wait "
        "for an answer.\n"
    )


def bring_from_server(pool: LabelPool, plan: LabelPlan, server: StudioServer) -> bool:
    """Writes the project's answers to the labels; returns whether anything changed."""
    project = server.find_project(plan.project)
    if project is None:
        raise UserError(
            f"{server.url}: has no project named {plan.project!r}, or the key may not see it. Make "
            "it with `llava-dvc label --to`, or name another with --project."
        )
    return bring_answers(pool, StudioSource(server, project), sys.stdout.write)


def list_doubtful(pool: LabelPool, plan: LabelPlan) -> None:
    """Prints the labels that the model doubts most."""
    sys.stdout.write(doubtful_table(_doubts(pool, plan)[: plan.number]))


def _choose(
    pool: LabelPool, plan: LabelPlan, sent: dict[str, bool]
) -> tuple[list[str], dict[str, Guess]]:
    """The next frames, the most useful first, with the model's counts."""
    number = plan.number - sum(sent.values())
    if plan.doubtful:
        doubts = [doubt for doubt in _doubts(pool, plan) if doubt.frame not in sent][:number]
        return [doubt.frame for doubt in doubts], {doubt.frame: doubt.guess for doubt in doubts}
    groups = [pool.group(name) for name in pool.names]
    names = spread_in_time(pool.names, groups, {*pool.labels, *sent}, number)
    if not names:
        raise UserError(
            f"{pool.data / 'frames'}: every frame has a label or was sent. Add frames with "
            "`llava-dvc frames VIDEO`, or check labels with `llava-dvc label --doubtful`."
        )
    return names, _guesses(pool, names, plan.adapter)


def _guesses(pool: LabelPool, names: Sequence[str], adapter: str | Path) -> dict[str, Guess]:
    if Path(adapter) == DEFAULT_ADAPTER and not DEFAULT_ADAPTER.exists():
        sys.stdout.write(
            f"{DEFAULT_ADAPTER}: not trained yet. The tasks have no counts of a model.\n"
        )
        return {}
    return guess_counts(pool, names, adapter)


def _doubts(pool: LabelPool, plan: LabelPlan) -> list[DoubtfulLabel]:
    if not pool.labels:
        raise UserError(f"{pool.data / 'labels.csv'}: has no labels that could be doubtful.")
    return doubtful_labels(pool, guess_counts(pool, list(pool.labels), plan.adapter))
