"""The commands `push` and `runs`: what is done with results."""

import argparse
import sys
from pathlib import Path
from typing import Any


def add_result_commands(commands: Any) -> None:
    """Adds push and runs."""
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


def runs_command(arguments: argparse.Namespace) -> None:
    """Prints experiments, the best first, or repairs the store of a moved repository."""
    if arguments.relocate:
        from llava_dvc.tracking.mlflow_store import relocate

        sys.stdout.write(f"{relocate()}\n")
    else:
        from llava_dvc.tracking.experiments import experiment_table

        sys.stdout.write(experiment_table())
