"""The commands `import`, `import-mall` and `frames`: what fills data/."""

import argparse
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_dvc.errors import UserError

if TYPE_CHECKING:
    from llava_dvc.data.imports.staged_frames import ImportRules

UNKNOWN_COLUMNS = re.compile(r": the columns are (.+?, .+?)\. Say what they are: --columns")
FRAME_COLUMN = re.compile("frame|file|image|picture|photo|path")
COUNT_COLUMN = re.compile("count|people|person|number|total")


def add_data_commands(commands: Any) -> None:
    """Adds import-mall, import and frames."""
    command = commands.add_parser("import-mall", help="the same as import --format mall")
    command.add_argument("source", type=Path, metavar="FOLDER_OR_ZIP")
    command.set_defaults(run=import_mall_command)
    _add_import(commands)
    _add_frames(commands)


def import_mall_command(arguments: argparse.Namespace) -> None:
    """Copies the Mall data set, or any frames/ with labels.csv, into data/ and adds it to DVC."""
    from llava_dvc.data.imports import mall
    from llava_dvc.data.imports.unsaved_data import require_saved

    require_saved(Path("data"))
    frames = mall.import_mall(arguments.source, Path("data"), _import_rules())
    mall.dvc_add(Path("data"))
    sys.stdout.write(_closing_text(frames))


def import_command(arguments: argparse.Namespace) -> None:
    """Fills data/ with frames that are annotated in any known format, and adds it to DVC."""
    from llava_dvc.data.imports.annotations import ImportChoices
    from llava_dvc.data.imports.formats.known import FORMATS, OWN
    from llava_dvc.data.imports.formats.tables import parse_columns
    from llava_dvc.data.imports.import_source import ImportPlan, import_source
    from llava_dvc.data.imports.mall import dvc_add
    from llava_dvc.data.imports.unsaved_data import require_saved

    if arguments.format not in (None, OWN, *FORMATS):
        names = ", ".join([*FORMATS, OWN])
        raise UserError(f"--format: is {arguments.format!r}. Choose one of: {names}.")
    rules = _import_rules()
    choices = ImportChoices(
        arguments.category,
        arguments.crowd == "ignore",
        arguments.empty,
        rules.allow_unlabelled,
        parse_columns(arguments.columns),
    )
    plan = ImportPlan(
        arguments.source, arguments.format, arguments.frames, choices, rules, arguments.add
    )
    if not plan.add:
        require_saved(Path("data"))
    try:
        frames = import_source(plan, Path("data"), sys.stdout.write)
    except UserError as error:
        raise UserError(f"{error}{_columns_to_copy(str(error))}") from None
    dvc_add(Path("data"))
    sys.stdout.write(_closing_text(frames))


def _columns_to_copy(error: str) -> str:
    """The whole command with --columns, for the error about a table of unknown columns."""
    found = UNKNOWN_COLUMNS.search(error)
    if found is None:
        return ""
    names = found[1].split(", ")
    frame = next((name for name in names if FRAME_COLUMN.search(name)), names[0])
    others = [name for name in names if name != frame]
    count = next((name for name in others if COUNT_COLUMN.search(name)), others[0])
    columns = f"frame={frame},count={count}"
    command = shlex.join(["llava-dvc", *sys.argv[1:], "--columns", columns])
    return f" If {frame} names the frame and {count} is its count: {command}"


def _closing_text(frames: int) -> str:
    """What to do next, and a warning if too few of the labelled frames are for evaluation."""
    from llava_dvc.config import load_config
    from llava_dvc.errors import few_frames

    text = f"data: {frames} frames. `dvc repro` trains on them.\n"
    if not Path("params.yaml").exists():
        return text
    split = load_config().split
    few = "" if split.train_until is not None else few_frames(round(split.eval * frames))
    return f"{text}warning: {few}\n" if few else text


def _import_rules() -> "ImportRules":
    """The settings of `data` in params.yaml; without that file, the strict ones."""
    from llava_dvc.config import load_config
    from llava_dvc.data.imports.staged_frames import STRICT, ImportRules

    if not Path("params.yaml").exists():
        return STRICT
    settings = load_config().data
    return ImportRules(settings.exclude, settings.unlabelled == "allow", settings.zone)


def frames_command(arguments: argparse.Namespace) -> None:
    """Writes frames of videos to data/frames, without labels."""
    from llava_dvc.serving.video.frame_files import write_frame_files

    frames = write_frame_files(arguments.videos, Path("data"), arguments.every, sys.stdout.write)
    sys.stdout.write(f"data/frames: {frames} new frames, without labels in data/labels.csv.\n")


def _add_import(commands: Any) -> None:
    command = commands.add_parser(
        "import",
        help="fill data/ with frames annotated in COCO, YOLO, VOC, CVAT, Label Studio, CSV ...",
    )
    command.add_argument(
        "source", type=Path, metavar="SOURCE", help="a folder, a zip, or an annotation file"
    )
    command.add_argument(
        "--add",
        action="store_true",
        help="keep the frames and labels that are in data/, and add to them",
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
