"""The commands `push`, `space`, `runs` and `report`: what is done with results."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_result_commands(commands: Any) -> None:
    """Adds push, space, runs and report."""
    _add_report(commands)
    _add_space(commands)
    command = commands.add_parser("push", help="upload a published folder to the Hub")
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("published"),
        metavar="FOLDER",
        help="output of the publish stage (default: published)",
    )
    command.set_defaults(run=push_command)

    command = commands.add_parser(
        "runs", help="show which experiment counts best, and its settings"
    )
    command.add_argument(
        "--relocate",
        action="store_true",
        help="instead, correct the artifact paths in the local MLflow store. Use this after you "
        "move the repository",
    )
    command.set_defaults(run=runs_command)


def push_command(arguments: argparse.Namespace) -> None:
    """Uploads a published folder to the Hub."""
    from llava_dvc.config import load_config
    from llava_dvc.publishing.push import push_folder

    sys.stdout.write(push_folder(arguments.folder, load_config().publish))


def space_command(arguments: argparse.Namespace) -> None:
    """Writes a Hugging Face Space around a published adapter."""
    from llava_dvc.publishing.space import write_space

    write_space(arguments.adapter, arguments.folder)
    sys.stdout.write(f"{arguments.folder}: a Space. docs/publishing.md says how to upload it.\n")


def runs_command(arguments: argparse.Namespace) -> None:
    """Prints experiments, the best first, or repairs the store of a moved repository."""
    if arguments.relocate:
        from llava_dvc.tracking.mlflow_store import relocate

        sys.stdout.write(f"{relocate()}\n")
    else:
        from llava_dvc.tracking.experiments import experiment_table

        sys.stdout.write(experiment_table())


def report_command(arguments: argparse.Namespace) -> None:
    """Writes report.md and report.html of the workspace or of an experiment."""
    from llava_dvc.errors import UserError
    from llava_dvc.reporting.report import HTML, MARKDOWN, ReportChoices, make_report

    if arguments.price is not None and not 0 <= arguments.price < 1e9:
        raise UserError(f"--price: is {arguments.price}. Give the price of an hour, 0 or more.")
    choices = ReportChoices(arguments.frames, arguments.price)
    make_report(arguments.experiment, arguments.out, choices)
    files = f"{arguments.out / MARKDOWN} and {arguments.out / HTML}"
    sys.stdout.write(f"{files}. The HTML file needs no other file.\n")


def _add_space(commands: Any) -> None:
    command = commands.add_parser(
        "space", help="write a Hugging Face Space, a page around a published adapter"
    )
    command.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder for the Space")
    command.add_argument(
        "--adapter",
        type=Path,
        default=Path("published"),
        metavar="FOLDER",
        help="output of the publish stage (default: published)",
    )
    command.set_defaults(run=space_command)


def _add_report(commands: Any) -> None:
    command = commands.add_parser(
        "report",
        help="write a result as report.md and as one HTML file",
    )
    command.add_argument(
        "experiment",
        nargs="?",
        metavar="EXPERIMENT",
        help="an experiment of DVC, a branch or a commit (default: the workspace)",
    )
    command.add_argument(
        "--no-frames", dest="frames", action="store_false", help="leave out the worst frames"
    )
    command.add_argument(
        "--price", type=float, metavar="PER_HOUR", help="price of the machine: adds the cost"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("report"),
        metavar="FOLDER",
        help="write both files and the pictures here (default: report)",
    )
    command.set_defaults(run=report_command)
