"""`llava-dvc report`: one result as report.md, and as one HTML file that needs no other file."""

import base64
import html
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, select_autoescape

from llava_dvc.checks.presets import nearest_preset
from llava_dvc.config import load_config
from llava_dvc.errors import UserError
from llava_dvc.evaluation.improvement import read_improvements
from llava_dvc.files import new_folder, read_json
from llava_dvc.pipeline_file import declared_paths
from llava_dvc.reporting.blocks import Picture, ReportSection
from llava_dvc.reporting.logged_run import LoggedRun, ResultKeys, read_logged_run
from llava_dvc.reporting.result_files import (
    PREPARED,
    locked_config,
    locked_md5,
    locked_stages,
    result_folder,
)
from llava_dvc.reporting.result_sections import (
    ReportFacts,
    data_section,
    error_section,
    plot_section,
    settings_section,
)
from llava_dvc.reporting.run_sections import curve_section, run_section

MARKDOWN, HTML = "report.md", "report.html"


@dataclass(frozen=True)
class ReportChoices:
    """The options of `llava-dvc report`."""

    with_frames: bool = True
    """Show the worst frames, which show people."""
    price: float | None = None
    """Of the machine for an hour."""


def make_report(experiment: str | None, folder: Path, choices: ReportChoices) -> None:
    """Writes the report of an experiment, or of the workspace, into `folder`.

    A report in `folder` is replaced. Raises UserError if `folder` holds anything else, or if the
    result is not whole.
    """
    require_report_folder(folder)
    with result_folder(experiment) as root:
        sections = report_sections(root, choices, folder)
    title = f"Counting people: {experiment or 'the result in the workspace'}"
    write_report(title, sections, folder)


def report_sections(root: Path, choices: ReportChoices, folder: Path) -> list[ReportSection]:
    """The sections of the result whose files are in `root`, for a report in `folder`.

    The last one differs between runs.
    """
    stages = locked_stages(root)
    cfg = locked_config(stages, load_config().publish.model_dump())
    path = {name: root / place for name, place in declared_paths().items()}
    report = read_json(path["prepared"] / PREPARED)
    adapter = locked_md5(stages, "train", "outs", declared_paths()["adapter"])
    run = _logged_run(ResultKeys(cfg, report, adapter))
    preset, differences = nearest_preset(cfg)
    facts = ReportFacts(
        cfg=cfg,
        preset=preset,
        differences=differences,
        report=report,
        baseline=read_json(path["baseline"]),
        metrics=read_json(path["evaluate"]),
        predictions=path["predictions"],
        answers=path["answers"],
        improvements=read_improvements(path["predictions"], path["answers"]),
        plots=path["plots"],
        frames=_way_to_frames(Path(declared_paths()["data"]), report["data_md5"], folder),
    )
    return [
        error_section(facts),
        data_section(facts),
        settings_section(facts),
        curve_section(run),
        plot_section(facts, choices.with_frames),
        run_section(run, choices.price),
    ]


def _way_to_frames(data: Path, md5: str, folder: Path) -> str | None:
    """The relative address of the frames from `folder`; None if the workspace has other data."""
    tracked = data.with_name(f"{data.name}.dvc")
    if not tracked.is_file() or md5 not in tracked.read_text(encoding="utf-8"):
        return None
    return quote(Path(os.path.relpath(data / "frames", folder)).as_posix())


def _logged_run(keys: ResultKeys) -> LoggedRun | None:
    """The run in MLflow. Without the tracker one line says so, and the report has no curves."""
    try:
        return read_logged_run(keys)
    except UserError as error:
        sys.stderr.write(f"warning: {error}. The report has no curves, minutes and memory.\n")
        return None


def write_report(title: str, sections: Sequence[ReportSection], folder: Path) -> None:
    """Writes report.md with its pictures beside it, and report.html with the pictures in it."""
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(["html.jinja"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["words"] = markdown_words
    templates.filters["base64"] = lambda data: base64.b64encode(data).decode()
    with new_folder(folder) as new:
        for name in (MARKDOWN, HTML):
            text = templates.get_template(f"{name}.jinja").render(title=title, sections=sections)
            (new / name).write_text(text, encoding="utf-8")
        for section in sections:
            for block in section.blocks:
                if isinstance(block, Picture):
                    (new / block.name).write_bytes(block.png)


def markdown_words(text: str) -> str:
    """`text` without effect in Markdown: a camera may have any name. Backticks stay."""
    escaped = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\|\[\]*])", r"\\\1", escaped)


def require_report_folder(folder: Path) -> None:
    """Raises UserError if `folder` holds anything but a report."""
    is_report = folder.is_dir() and ((folder / MARKDOWN).is_file() or not any(folder.iterdir()))
    if folder.exists() and not is_report:
        raise UserError(
            f"--out: {folder} exists and is no report, and a report replaces the whole folder. "
            "Choose another folder."
        )
