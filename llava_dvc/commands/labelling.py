"""The command `label`: frames go to annotators in Label Studio, and their answers come back."""

import argparse
import sys
from pathlib import Path
from typing import Any

from llava_dvc.errors import UserError

TITLES = {False: "llava-dvc", True: "llava-dvc doubtful"}
"""Of the project in Label Studio; with `--doubtful` another one."""


def add_labelling_command(commands: Any) -> None:
    """Adds label."""
    command = commands.add_parser(
        "label", help="send frames to label to Label Studio, and bring back the labels"
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("--to", metavar="URL", help="send the next frames to this server")
    where.add_argument("--from", dest="source", metavar="URL", help="bring back what was labelled")
    where.add_argument(
        "--file", type=Path, metavar="FILE.json", help="write the tasks for an import by hand"
    )
    command.add_argument(
        "--doubtful",
        action="store_true",
        help="frames whose label the model doubts most, instead of frames without a label. Alone: "
        "print a list",
    )
    command.add_argument(
        "--number",
        type=int,
        default=50,
        metavar="N",
        help="frames that are to wait for an annotator, or lines of the list (default: 50)",
    )
    command.add_argument("--points", action="store_true", help="annotators mark each head")
    command.add_argument(
        "--zone", metavar="NAME", help="annotators can draw the outline of this zone"
    )
    command.add_argument(
        "--project",
        metavar="TITLE",
        help="the project in Label Studio (default: llava-dvc, or llava-dvc doubtful)",
    )
    command.add_argument(
        "--adapter",
        default=Path("models/adapter"),
        metavar="ADAPTER",
        help="whose counts annotators see: a folder, a Hub id, or champion (default: "
        "models/adapter, if it is there)",
    )
    command.set_defaults(run=label_command)


def label_command(arguments: argparse.Namespace) -> None:
    """Sends frames to Label Studio, brings back labels, or lists doubtful ones."""
    _check_options(arguments)
    from llava_dvc.config import load_config
    from llava_dvc.labelling import label_command as label
    from llava_dvc.labelling.label_pool import read_pool
    from llava_dvc.labelling.studio_server import StudioServer

    title = arguments.project or TITLES[arguments.doubtful]
    plan = label.LabelPlan(
        arguments.number,
        arguments.points,
        arguments.doubtful,
        title,
        arguments.adapter,
        arguments.zone,
    )
    settings = load_config().data
    pool = read_pool(Path("data"), settings.exclude)
    if arguments.to:
        label.send_to_server(pool, plan, StudioServer(arguments.to))
    elif arguments.file:
        label.write_task_file(pool, plan, arguments.file)
    elif arguments.source:
        changed = label.bring_from_server(pool, plan, StudioServer(arguments.source))
        _track_labels(changed, settings.exclude, settings.unlabelled)
    else:
        label.list_doubtful(pool, plan)


def _check_options(arguments: argparse.Namespace) -> None:
    if not (arguments.to or arguments.source or arguments.file or arguments.doubtful):
        raise UserError("label: needs --to URL, --from URL, --file FILE.json or --doubtful.")
    if arguments.number < 1:
        raise UserError(f"--number: is {arguments.number}. Give a number of frames, at least 1.")
    if arguments.zone is not None and not arguments.zone.strip():
        raise UserError("--zone: is blank. Name the zone, such as tills.")
    if arguments.file and arguments.file.suffix.lower() != ".json":
        raise UserError(f"--file: is {arguments.file}. Choose a name that ends in .json.")


def _track_labels(changed: bool, exclude: tuple[str, ...], unlabelled: str) -> None:
    """Adds changed labels to DVC, and says what `dvc repro` still needs."""
    from llava_dvc.data.imports.mall import dvc_add
    from llava_dvc.labelling.label_pool import read_pool

    if changed:
        dvc_add(Path("data"))
    left = len(read_pool(Path("data"), exclude).unlabelled)
    hint = " Set data.unlabelled to allow in params.yaml." if unlabelled == "refuse" else ""
    if left:
        sys.stdout.write(f"data/frames: {left} frames have no label.{hint}\n")
