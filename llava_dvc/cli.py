"""`llava-dvc`: what is done by hand, before and after the pipeline."""

import argparse
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from llava_dvc.config import PARAMS, load_config
from llava_dvc.errors import UserError

PRESETS = Path("presets")


def main() -> None:
    """Parse the command line and run one command; a UserError is one line and exit code 1."""
    arguments = _parser().parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    try:
        arguments.run(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # `| head` has seen enough; Python would complain of it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def preset(arguments: argparse.Namespace) -> None:
    """Copy a preset over params.yaml."""
    source = PRESETS / f"{arguments.name}.yaml"
    if not PRESETS.is_dir():
        raise UserError(f"{PRESETS}: not found. Run from the repository's root.")
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in PRESETS.glob("*.yaml")))
        raise UserError(f"{source}: no such preset; known: {known}")
    load_config(source)
    shutil.copyfile(source, PARAMS)
    sys.stdout.write(f"{PARAMS} is now {source}; `dvc repro` runs what that changes\n")


def doctor(arguments: argparse.Namespace) -> None:
    """Show what a training would check before its first step; a fault is exit code 1."""
    from llava_dvc.checks.doctor import examine, row

    faults = 0
    for check in examine(load_config(), arguments.prepared):
        sys.stdout.write(row(check))
        sys.stdout.flush()
        faults += check.fault is not None
    if faults:
        raise UserError(f"{faults} of these would stop a training")


def import_mall(arguments: argparse.Namespace) -> None:
    """Bring the Mall data set, or any frames/ + labels.csv, into data/."""
    from llava_dvc.data import mall

    frames = mall.import_mall(arguments.source, Path("data"))
    mall.dvc_add(Path("data"))
    sys.stdout.write(f"data: {frames} frames; `dvc repro` trains on them\n")


def push(arguments: argparse.Namespace) -> None:
    """Upload a published folder to the Hub."""
    from llava_dvc.publishing.push import release

    sys.stdout.write(release(arguments.folder, load_config().publish))


def predict(arguments: argparse.Namespace) -> None:
    """Count the people in pictures and videos."""
    from llava_dvc.serving.predict import count_files

    count_files(
        arguments.paths,
        arguments.adapter,
        form=arguments.format,
        every=arguments.every,
        annotated=arguments.annotate,
        timeline_file=arguments.timeline,
    )


def serve(arguments: argparse.Namespace) -> None:
    """Count over HTTP until the process is told to stop."""
    from llava_dvc.serving.service import serve

    serve(arguments.adapter, arguments.host, arguments.port)


def vllm(arguments: argparse.Namespace) -> None:
    """Print the command that serves an adapter with vLLM, or why it cannot be."""
    from llava_dvc.serving.vllm import command

    sys.stdout.write(command(arguments.adapter) + "\n")


def runs(arguments: argparse.Namespace) -> None:
    """Show experiments beside their MLflow runs, or mend the store of a moved repository."""
    if arguments.relocate:
        from llava_dvc.tracking.mlflow_store import relocate

        sys.stdout.write(f"{relocate()}\n")
    else:
        from llava_dvc.tracking.experiments import table

        sys.stdout.write(table())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava-dvc", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("preset", help="copy presets/NAME.yaml over params.yaml")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=preset)

    command = commands.add_parser("doctor", help="check params.yaml, machine and model")
    command.add_argument(
        "--prepared",
        type=Path,
        default=Path("prepared"),
        metavar="FOLDER",
        help="where two training frames are taken from, if it is there",
    )
    command.set_defaults(run=doctor)

    command = commands.add_parser("import-mall", help="fill data/ from a folder or zip of frames")
    command.add_argument("source", type=Path, metavar="FOLDER_OR_ZIP")
    command.set_defaults(run=import_mall)

    command = commands.add_parser("push", help="upload a published folder to the Hub")
    command.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path("published"),
        metavar="FOLDER",
        help="published if not given",
    )
    command.set_defaults(run=push)

    command = commands.add_parser("runs", help="show experiments beside their MLflow runs")
    command.add_argument(
        "--relocate",
        action="store_true",
        help="instead, mend the artifact paths of the local store after the repository was moved",
    )
    command.set_defaults(run=runs)

    _add_counting(commands)
    return parser


def _add_counting(commands: Any) -> None:
    """predict, serve and vllm: what is done with an adapter."""
    command = commands.add_parser("predict", help="count the people in pictures and videos")
    command.add_argument(
        "paths", nargs="+", metavar="PATH", help="a picture, a folder of them, a video, or a glob"
    )
    _adapter(command)
    command.add_argument(
        "--format",
        choices=["table", "csv", "jsonl"],
        help="a table on a terminal and CSV elsewhere, if not given",
    )
    command.add_argument(
        "--every",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="between two frames of a video; 1 if not given",
    )
    command.add_argument(
        "--annotate", type=Path, metavar="FOLDER", help="write the frames with their counts there"
    )
    command.add_argument(
        "--timeline", type=Path, metavar="FILE.png", help="draw the count over time"
    )
    command.set_defaults(run=predict)

    command = commands.add_parser("serve", help="count over HTTP, with a page to drop frames on")
    _adapter(command)
    command.add_argument("--host", default="127.0.0.1", help="127.0.0.1 if not given")
    command.add_argument("--port", type=int, default=8000, help="8000 if not given; 0 for any")
    command.set_defaults(run=serve)

    command = commands.add_parser("vllm", help="print the command that serves an adapter with vLLM")
    command.add_argument("adapter", type=Path, metavar="FOLDER", help="published, mostly")
    command.set_defaults(run=vllm)


def _adapter(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--adapter",
        default=Path("models/adapter"),
        metavar="ADAPTER",
        help="a folder, a Hub id (owner/name or owner/name@revision), or champion; "
        "models/adapter if not given",
    )
