"""The commands `preset` and `doctor`: what is set, and whether it can be trained."""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from llava_dvc.errors import UserError


def add_setup_commands(commands: Any) -> None:
    """Adds preset and doctor."""
    command = commands.add_parser("preset", help="copy presets/NAME.yaml over params.yaml")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=preset_command)

    command = commands.add_parser(
        "doctor",
        help="check params.yaml, the machine and the model; reckon time and memory of a training",
    )
    command.add_argument(
        "--prepared",
        type=Path,
        default=Path("prepared"),
        metavar="FOLDER",
        help="output of the prepare stage (default: prepared). The model is checked on two of its "
        "training frames, or on grey frames if the folder does not exist",
    )
    command.add_argument(
        "--report",
        action="store_true",
        help="instead, print versions, machine and settings to paste into a bug report",
    )
    command.set_defaults(run=doctor_command)


def preset_command(arguments: argparse.Namespace) -> None:
    """Copies a preset over params.yaml."""
    from llava_dvc.checks.presets import PRESETS
    from llava_dvc.config import PARAMS, load_config
    from llava_dvc.files import new_file

    source = PRESETS / f"{arguments.name}.yaml"
    if not PRESETS.is_dir():
        raise UserError(f"{PRESETS}: not found. Run from the repository's root.")
    if not source.is_file():
        names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise UserError(f"{source}: no such preset. Choose one of: {names}")
    load_config(source)
    with new_file(PARAMS) as file:
        shutil.copyfile(source, file)
    sys.stdout.write(f"{PARAMS} is now {source}. `dvc repro` runs the stages that this changes.\n")


def doctor_command(arguments: argparse.Namespace) -> None:
    """Prints every check that a training makes before its first step. Raises UserError if one
    fails. With `--report` it prints a block for a bug report.
    """
    if arguments.report:
        from llava_dvc.checks.bug_report import bug_report

        sys.stdout.write(bug_report())
        return
    from llava_dvc.checks.doctor import all_checks, table_row
    from llava_dvc.config import load_config

    faults = 0
    for check in all_checks(load_config(), arguments.prepared):
        sys.stdout.write(table_row(check))
        sys.stdout.flush()
        faults += check.fault is not None
    if faults:
        raise UserError(f"{faults} of these checks would stop a training")
