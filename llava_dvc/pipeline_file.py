"""The stages that dvc.yaml declares."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

PIPELINE = Path("dvc.yaml")


def declared_stages() -> dict[str, Any]:
    """The stages by name, with the values of `vars` in place of `${...}`. Empty without dvc.yaml.

    Read without DVC's Python API: `Repo.index` takes one second in each stage, and `import dvc`
    replaces sys.stdout.
    """
    if not PIPELINE.is_file():
        return {}
    text = PIPELINE.read_text(encoding="utf-8")
    for name, value in declared_paths().items():
        text = text.replace(f"${{path.{name}}}", value)
    stages: dict[str, Any] = yaml.safe_load(text)["stages"]
    return stages


def declared_paths() -> dict[str, str]:
    """The paths of data and results, by their names in `vars`."""
    entries = yaml.safe_load(PIPELINE.read_text(encoding="utf-8")).get("vars", [])
    sections = [entry["path"] for entry in entries if isinstance(entry, dict) and "path" in entry]
    return {name: str(path) for section in sections for name, path in section.items()}


def stage_outs(stage: Mapping[str, Any]) -> set[str]:
    """The outs, metrics and plots of one of `declared_stages`, as paths relative to dvc.yaml."""
    outs = [out for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    return {next(iter(out)) if isinstance(out, dict) else out for out in outs}
