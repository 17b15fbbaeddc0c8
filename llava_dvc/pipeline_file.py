"""The stages that dvc.yaml declares."""

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
