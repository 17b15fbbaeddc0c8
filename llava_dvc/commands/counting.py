"""The commands `predict`, `watch`, `drift`, `serve` and `vllm`: counts from an adapter."""

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any


def add_counting_commands(commands: Any) -> None:
    """Adds predict, watch, drift, serve and vllm."""
    _add_predict(commands)
    _add_watch(commands)
    _add_drift(commands)
    command = commands.add_parser("serve", help="count over HTTP, with a page to drop frames on")
    _add_adapter_option(command)
    _add_server_options(command, 8000)
    command.add_argument(
        "--keep-corrections",
        type=Path,
        metavar="DIR",
        help="keep the frames that users correct on the page here, with the right count, for "
        "`llava-dvc import DIR` (default: keep nothing)",
    )
    command.set_defaults(run=serve_command)

    command = commands.add_parser("vllm", help="print the command that serves an adapter with vLLM")
    command.add_argument(
        "adapter", type=Path, metavar="FOLDER", help="folder of the adapter, usually published"
    )
    command.set_defaults(run=vllm_command)


def predict_command(arguments: argparse.Namespace) -> None:
    """Counts the people in image files and videos."""
    if arguments.ray or arguments.out:
        _count_archive(arguments)
        return
    from llava_dvc.serving.predict import Outputs, Where, count_files

    start = _parse_start(arguments.start)
    outputs = Outputs(arguments.format, arguments.annotate, arguments.timeline, start)
    where = Where(arguments.zone, arguments.camera)
    count_files(
        arguments.paths, arguments.adapter, outputs, arguments.every, arguments.smooth, where
    )


def _count_archive(arguments: argparse.Namespace) -> None:
    """Counts on a Ray cluster. Raises UserError for options that only predict itself has."""
    from llava_dvc.errors import UserError

    if not (arguments.ray and arguments.out):
        given, other = ("--ray", "--out") if arguments.ray else ("--out", "--ray")
        raise UserError(f"{given}: needs {other} too. Add it, or leave out {given}.")
    for name in ("format", "smooth", "zone", "camera", "annotate", "timeline", "start"):
        if getattr(arguments, name):
            raise UserError(f"--{name}: is not possible with --ray. Leave it out.")
    from llava_dvc.archive.job import ArchiveJob, count_archive

    job = ArchiveJob(arguments.paths, arguments.adapter, arguments.out, arguments.every)
    count_archive(job, arguments.ray)


def _parse_start(text: str | None) -> datetime | None:
    """The value of --start as a time. Raises UserError if it is none."""
    from llava_dvc.errors import UserError

    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        raise UserError(f"--start: is {text}. Write a time such as 2026-11-26T08:30.") from None


def watch_command(arguments: argparse.Namespace) -> None:
    """Counts in live cameras until SIGTERM or Ctrl-C."""
    from llava_dvc.serving.watch.watch import watch_cameras
    from llava_dvc.serving.watch.watch_options import Pace, Watched, WatchOutputs, WatchServer

    watched = Watched(arguments.sources, arguments.realtime, arguments.zone)
    pace = Pace(arguments.every, arguments.frame_interval, arguments.stall, arguments.transport)
    outputs = WatchOutputs(
        arguments.out, arguments.format, arguments.alert, arguments.webhook, arguments.notify
    )
    server = WatchServer(
        arguments.host, arguments.port, arguments.allowed_host, arguments.show_frames
    )
    watch_cameras(watched, arguments.adapter, pace, outputs, server)


def drift_command(arguments: argparse.Namespace) -> None:
    """Writes the report of what live cameras have counted."""
    from llava_dvc.drift.drift_report import make_drift_report
    from llava_dvc.reporting.report import HTML, MARKDOWN

    out = arguments.out
    answer = make_drift_report(arguments.readings, arguments.adapter, arguments.days, out)
    sys.stdout.write(f"{answer}\n{out / MARKDOWN} and {out / HTML}: the report.\n")


def serve_command(arguments: argparse.Namespace) -> None:
    """Counts over HTTP until SIGTERM or Ctrl-C."""
    from llava_dvc.serving.server import serve

    serve(
        arguments.adapter,
        arguments.host,
        arguments.port,
        arguments.allowed_host,
        arguments.keep_corrections,
    )


def vllm_command(arguments: argparse.Namespace) -> None:
    """Prints the command that serves an adapter with vLLM. Raises UserError if vLLM cannot."""
    from llava_dvc.serving.vllm import vllm_serve_command

    sys.stdout.write(vllm_serve_command(arguments.adapter) + "\n")


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
    _add_zone_option(command)
    command.add_argument(
        "--camera", metavar="NAME", help="take this camera's outline of the zone (default: *)"
    )
    command.add_argument(
        "--annotate",
        type=Path,
        metavar="FOLDER",
        help="write the frames with their counts here, and those of a video as an MP4 file too",
    )
    command.add_argument(
        "--timeline", type=Path, metavar="FILE.png", help="plot the count over time into this file"
    )
    command.add_argument(
        "--start",
        metavar="TIME",
        help="when the video began, for the plot: 2026-11-26T08:30 (default: as its file says)",
    )
    _add_ray_options(command)
    command.set_defaults(run=predict_command)


def _add_ray_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="count on a Ray cluster: its HOST:PORT, or auto for that of this machine; PATH may be "
        "an address such as s3://bucket/archive; needs `pip install 'llava-dvc[ray]'`",
    )
    command.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="with --ray: write Parquet files here, by camera and day",
    )


def _add_watch(commands: Any) -> None:
    command = commands.add_parser("watch", help="count the people in live cameras")
    command.add_argument(
        "sources",
        nargs="+",
        metavar="[NAME=]SOURCE",
        help="rtsp://, http:// (MJPEG or HLS), a device such as /dev/video0, or a file",
    )
    _add_adapter_option(command)
    _add_zone_option(command)
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
        "long; 'hall/tills > 5 for 60s' is of one zone; may be repeated",
    )
    command.add_argument(
        "--webhook",
        metavar="URL",
        help="post alerts here as JSON, signed with the secret in LLAVA_DVC_WEBHOOK_SECRET",
    )
    command.add_argument(
        "--notify",
        action="append",
        default=[],
        metavar="URL",
        help="send alerts to this address of apprise (mail, chat, MQTT and others); may be "
        "repeated; needs `pip install 'llava-dvc[alerts]'`",
    )
    _add_server_options(command, 8001)
    command.add_argument(
        "--show-frames",
        action="store_true",
        help="show the newest frame of each camera on the page; it is never kept on disk (default: "
        "no picture leaves the process)",
    )
    command.set_defaults(run=watch_command)


def _add_drift(commands: Any) -> None:
    command = commands.add_parser(
        "drift", help="say from the rows of watch whether frames should be labelled again"
    )
    command.add_argument(
        "readings",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="what watch has written, as JSON Lines or CSV; earlier days help",
    )
    _add_adapter_option(command, Path("published"))
    command.add_argument(
        "--days", type=int, choices=[1, 7], default=7, help="the last day or week (default: 7)"
    )
    command.add_argument(
        "--out",
        type=Path,
        default=Path("drift"),
        metavar="FOLDER",
        help="write report.md, report.html and the pictures here (default: drift)",
    )
    command.set_defaults(run=drift_command)


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


def _add_zone_option(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--zone",
        action="append",
        default=[],
        metavar="NAME",
        help="count in this zone, and name it in the rows; may be repeated (default: the zone for "
        "which the adapter was tuned)",
    )


def _add_adapter_option(
    command: argparse.ArgumentParser, default: Path = Path("models/adapter")
) -> None:
    command.add_argument(
        "--adapter",
        default=default,
        metavar="ADAPTER",
        help="a folder, a Hub id (owner/name or owner/name@revision), or champion "
        f"(default: {default})",
    )
