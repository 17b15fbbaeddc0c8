"""Commands for the work before and after the pipeline."""

import argparse
import sys
import warnings
from importlib.metadata import version

from llava_dvc.commands.counting import add_counting_commands
from llava_dvc.commands.data import add_data_commands
from llava_dvc.commands.examples import EXAMPLES, FIRST, add_examples
from llava_dvc.commands.labelling import add_labelling_command
from llava_dvc.commands.results import add_result_commands
from llava_dvc.commands.setup import add_setup_commands
from llava_dvc.errors import check_endpoint
from llava_dvc.exit_line import exit_with_one_line
from llava_dvc.masking import hide_secrets

FIRST_LINES = {
    **dict.fromkeys(("predict", "watch", "serve"), "Loading the model"),
    "doctor": "Checking settings and machine, then the model",
    "runs": "Reading the experiments of DVC and their runs in MLflow",
    "report": "Reading the result and its run in MLflow",
}
"""What commands say that are silent for seconds at first."""


def main() -> None:
    """Parses the command line and runs one command. Every error is one line, without traceback."""
    with exit_with_one_line("the command"):
        arguments = _parser().parse_args(sys.argv[1:] or ["--help"])
        _show_life(arguments.command)
        hide_secrets()
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        check_endpoint()
        arguments.run(arguments)


def _show_life(command: str) -> None:
    """Says on a terminal what a slow command does, before it imports its libraries."""
    if command in FIRST_LINES and sys.stderr.isatty():
        sys.stderr.write(f"{FIRST_LINES[command]} ...\n")
        sys.stderr.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava-dvc", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('llava-dvc')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    add_setup_commands(commands)
    add_data_commands(commands)
    add_labelling_command(commands)
    add_result_commands(commands)
    add_counting_commands(commands)
    add_examples(parser, *FIRST)
    for name, command in commands.choices.items():
        add_examples(command, *(f"{name} {rest}" for rest in EXAMPLES.get(name, ())))
    return parser
