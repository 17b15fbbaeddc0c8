"""Commands for the work before and after the pipeline."""

import argparse
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from llava_dvc.errors import UserError, check_endpoint
from llava_dvc.exit_line import exit_with_one_line
from llava_dvc.masking import hide_secrets

PRESETS = Path("presets")

IMPORT_EXAMPLES = """examples:
  llava-dvc import export.zip --category person --empty skip
  llava-dvc import counts.csv --frames recordings/ --columns frame=file,count=people
"""


def main() -> None:
    """Parses the command line and runs one command. Every error is one line, without traceback."""
    with exit_with_one_line("the command"):
        arguments = _parser().parse_args()
        hide_secrets()
        warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
        check_endpoint()
        arguments.run(arguments)


# --- commands: each imports what it needs when it runs, so that `--help` is fast ----------------


def preset_command(arguments: argparse.Namespace) -> None:
    """Copies a preset over params.yaml."""
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
    fails.
    """
    from llava_dvc.checks.doctor import all_checks, table_row
    from llava_dvc.config import load_config

    faults = 0
    for check in all_checks(load_config(), arguments.prepared):
        sys.stdout.write(table_row(check))
        sys.stdout.flush()
        faults += check.fault is not None
    if faults:
        raise UserError(f"{faults} of these checks would stop a training")


def import_mall_command(arguments: argparse.Namespace) -> None:
    """Copies the Mall data set, or any frames/ with labels.csv, into data/ and adds it to DVC."""
    from llava_dvc.data.imports import mall

    frames = mall.import_mall(arguments.source, Path("data"))
    mall.dvc_add(Path("data"))
    sys.stdout.write(f"data: {frames} frames. `dvc repro` trains on them.\n")


def import_command(arguments: argparse.Namespace) -> None:
    """Fills data/ with frames that are annotated in any known format, and adds it to DVC."""
    from llava_dvc.data.imports.annotations import ImportChoices
    from llava_dvc.data.imports.formats.known import FORMATS, OWN
    from llava_dvc.data.imports.formats.tables import parse_columns
    from llava_dvc.data.imports.import_source import ImportPlan, import_source
    from llava_dvc.data.imports.mall import dvc_add

    if arguments.format not in (None, OWN, *FORMATS):
        names = ", ".join([*FORMATS, OWN])
        raise UserError(f"--format: is {arguments.format!r}. Choose one of: {names}.")
    choices = ImportChoices(
        arguments.category,
        arguments.crowd == "ignore",
        arguments.empty,
        parse_columns(arguments.columns),
    )
    plan = ImportPlan(arguments.source, arguments.format, arguments.frames, choices)
    frames = import_source(plan, Path("data"), sys.stdout.write)
    dvc_add(Path("data"))
    sys.stdout.write(f"data: {frames} frames. `dvc repro` trains on them.\n")


def frames_command(arguments: argparse.Namespace) -> None:
    """Writes frames of videos to data/frames, without labels."""
    from llava_dvc.serving.video.frame_files import write_frame_files

    frames = write_frame_files(arguments.videos, Path("data"), arguments.every, sys.stdout.write)
    sys.stdout.write(f"data/frames: {frames} new frames, without labels in data/labels.csv.\n")


def push_command(arguments: argparse.Namespace) -> None:
    """Uploads a published folder to the Hub."""
    from llava_dvc.config import load_config
    from llava_dvc.publishing.push import push_folder

    sys.stdout.write(push_folder(arguments.folder, load_config().publish))


def predict_command(arguments: argparse.Namespace) -> None:
    """Counts the people in image files and videos."""
    from llava_dvc.serving.predict import Outputs, count_files

    outputs = Outputs(arguments.format, arguments.annotate, arguments.timeline)
    count_files(
        arguments.paths, arguments.adapter, outputs, every=arguments.every, smooth=arguments.smooth
    )


def serve_command(arguments: argparse.Namespace) -> None:
    """Counts over HTTP until SIGTERM or Ctrl-C."""
    from llava_dvc.serving.server import serve

    serve(arguments.adapter, arguments.host, arguments.port, arguments.allowed_host)


def watch_command(arguments: argparse.Namespace) -> None:
    """Counts in live cameras until SIGTERM or Ctrl-C."""
    from llava_dvc.serving.watch.watch import watch_cameras
    from llava_dvc.serving.watch.watch_options import Pace, WatchOutputs, WatchServer

    pace = Pace(arguments.every, arguments.frame_interval, arguments.stall, arguments.transport)
    outputs = WatchOutputs(arguments.out, arguments.format, arguments.alert, arguments.webhook)
    server = WatchServer(arguments.host, arguments.port, arguments.allowed_host)
    watch_cameras(arguments.sources, arguments.adapter, arguments.realtime, pace, outputs, server)


def vllm_command(arguments: argparse.Namespace) -> None:
    """Prints the command that serves an adapter with vLLM. Raises UserError if vLLM cannot."""
    from llava_dvc.serving.vllm import vllm_serve_command

    sys.stdout.write(vllm_serve_command(arguments.adapter) + "\n")


def runs_command(arguments: argparse.Namespace) -> None:
    """Prints experiments with their MLflow runs, or repairs the store of a moved repository."""
    if arguments.relocate:
        from llava_dvc.tracking.mlflow_store import relocate

        sys.stdout.write(f"{relocate()}\n")
    else:
        from llava_dvc.tracking.experiments import experiment_table

        sys.stdout.write(experiment_table())


# --- the command line ---------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="llava-dvc", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_setup_commands(commands)
    _add_import(commands)
    _add_frames(commands)
    _add_result_commands(commands)
    _add_predict(commands)
    _add_watch(commands)
    _add_serving_commands(commands)
    return parser


def _add_setup_commands(commands: Any) -> None:
    """Adds preset, doctor and import-mall: the work before a training."""
    command = commands.add_parser("preset", help="copy presets/NAME.yaml over params.yaml")
    command.add_argument("name", metavar="NAME")
    command.set_defaults(run=preset_command)

    command = commands.add_parser("doctor", help="check params.yaml, the machine and the model")
    command.add_argument(
        "--prepared",
        type=Path,
        default=Path("prepared"),
        metavar="FOLDER",
        help="output of the prepare stage (default: prepared). The model is checked on two of its "
        "training frames, or on grey frames if the folder does not exist",
    )
    command.set_defaults(run=doctor_command)

    command = commands.add_parser("import-mall", help="the same as import --format mall")
    command.add_argument("source", type=Path, metavar="FOLDER_OR_ZIP")
    command.set_defaults(run=import_mall_command)


def _add_import(commands: Any) -> None:
    command = commands.add_parser(
        "import",
        help="fill data/ with frames annotated in COCO, YOLO, VOC, CVAT, Label Studio, CSV ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=IMPORT_EXAMPLES,
    )
    command.add_argument(
        "source", type=Path, metavar="SOURCE", help="a folder, a zip, or an annotation file"
    )
    command.add_argument(
        "--format", metavar="NAME", help="the format, if it is not recognised (see docs/data.md)"
    )
    command.add_argument(
        "--frames", type=Path, metavar="FOLDER", help="the pictures, if they are not in SOURCE"
    )
    command.add_argument(
        "--category",
        action="append",
        default=[],
        metavar="NAME",
        help="what to count, if that is not clear; may be repeated",
    )
    command.add_argument(
        "--empty",
        choices=["zero", "skip"],
        help="a picture without any annotation shows nobody, or is left out",
    )
    command.add_argument(
        "--crowd", choices=["ignore"], help="do not count COCO's crowd regions (iscrowd)"
    )
    command.add_argument(
        "--columns",
        metavar="FRAME=NAME,...",
        help="columns of a CSV file: frame=NAME and count=NAME, or frame=, x= and y=; also camera=",
    )
    command.set_defaults(run=import_command)


def _add_frames(commands: Any) -> None:
    command = commands.add_parser("frames", help="write frames of videos to data/frames")
    command.add_argument("videos", nargs="+", type=Path, metavar="VIDEO")
    command.add_argument(
        "--every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="time between two frames (default: 30)",
    )
    command.set_defaults(run=frames_command)


def _add_result_commands(commands: Any) -> None:
    """Adds push and runs: the work with results."""
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

    command = commands.add_parser("runs", help="show experiments with their MLflow runs")
    command.add_argument(
        "--relocate",
        action="store_true",
        help="instead, correct the artifact paths in the local MLflow store. Use this after you "
        "move the repository",
    )
    command.set_defaults(run=runs_command)


def _add_predict(commands: Any) -> None:
    command = commands.add_parser("predict", help="count the people in images and videos")
    command.add_argument(
        "paths", nargs="+", metavar="PATH", help="an image, a video, a folder of both, or a glob"
    )
    _add_adapter_option(command)
    command.add_argument(
        "--format",
        choices=["table", "csv", "jsonl"],
        help="output format (default: table on a terminal, csv elsewhere)",
    )
    command.add_argument(
        "--every",
        type=float,
        default=1.0,
        metavar="SECONDS",
        help="time between two frames of a video (default: 1)",
    )
    command.add_argument(
        "--smooth",
        action="store_true",
        help="smooth over time: combine the count of a frame with those of its neighbours in a "
        "video, or in files whose names have consecutive numbers",
    )
    command.add_argument(
        "--annotate", type=Path, metavar="FOLDER", help="write the frames with their counts here"
    )
    command.add_argument(
        "--timeline", type=Path, metavar="FILE.png", help="plot the count over time into this file"
    )
    command.set_defaults(run=predict_command)


def _add_watch(commands: Any) -> None:
    command = commands.add_parser("watch", help="count the people in live cameras")
    command.add_argument(
        "sources",
        nargs="+",
        metavar="[NAME=]SOURCE",
        help="rtsp://, http:// (MJPEG or HLS), a device such as /dev/video0, or a file",
    )
    _add_adapter_option(command)
    _add_pace_options(command)
    command.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write the rows here, into one file a day (default: to standard output)",
    )
    command.add_argument(
        "--format", choices=["jsonl", "csv"], default="jsonl", help="of the rows (default: jsonl)"
    )
    command.add_argument(
        "--alert",
        action="append",
        default=[],
        metavar="RULE",
        help="'hall > 40 for 60s': on when the interval of the camera hall is above 40 for that "
        "long; may be repeated",
    )
    command.add_argument(
        "--webhook",
        metavar="URL",
        help="post alerts here as JSON, signed with the secret in LLAVA_DVC_WEBHOOK_SECRET",
    )
    _add_server_options(command, 8001)
    command.set_defaults(run=watch_command)


def _add_pace_options(command: argparse.ArgumentParser) -> None:
    seconds: dict[str, Any] = {"type": float, "metavar": "SECONDS"}
    command.add_argument(
        "--every", default=2.0, help="between two counts of a camera (default: 2)", **seconds
    )
    command.add_argument(
        "--frame-interval",
        help="between two neighbouring training frames, for the smoothing (default: as --every)",
        **seconds,
    )
    command.add_argument(
        "--stall",
        default=10.0,
        help="connect to a camera again if no picture comes for so long (default: 10)",
        **seconds,
    )
    command.add_argument(
        "--transport", choices=["tcp", "udp"], default="tcp", help="of RTSP (default: tcp)"
    )
    command.add_argument(
        "--realtime",
        action="store_true",
        help="play files at their own speed, as if they were live",
    )


def _add_serving_commands(commands: Any) -> None:
    """Adds serve and vllm."""
    command = commands.add_parser("serve", help="count over HTTP, with a page to drop frames on")
    _add_adapter_option(command)
    _add_server_options(command, 8000)
    command.set_defaults(run=serve_command)

    command = commands.add_parser("vllm", help="print the command that serves an adapter with vLLM")
    command.add_argument(
        "adapter", type=Path, metavar="FOLDER", help="folder of the adapter, usually published"
    )
    command.set_defaults(run=vllm_command)


def _add_server_options(command: argparse.ArgumentParser, port: int) -> None:
    command.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    command.add_argument(
        "--port", type=int, default=port, help=f"default: {port}; 0 takes any free port"
    )
    command.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which clients reach the service, for example that of a proxy; "
        "may be repeated (default: the names and addresses of this machine that --host opens)",
    )


def _add_adapter_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--adapter",
        default=Path("models/adapter"),
        metavar="ADAPTER",
        help="a folder, a Hub id (owner/name or owner/name@revision), or champion "
        "(default: models/adapter)",
    )
