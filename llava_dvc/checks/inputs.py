"""Checks that DVC finds the inputs of the first stage. Its own error names no remedy."""

from collections.abc import Iterator
from pathlib import Path

from llava_dvc.checks.check import Check
from llava_dvc.data.frames import missing_parts
from llava_dvc.pipeline_file import PIPELINE, declared_paths

DATA = Path("data")


def input_checks(backbone: str) -> Iterator[Check]:
    """Yields the check of data/, and a fault if `path.backbone` of dvc.yaml does not exist.

    The folder is needed even if `backbone`, the setting backbone.name, is a Hub id. If it is the
    same folder, the hardware checks name it.
    """
    missing = missing_parts(DATA)
    fault = str(missing[0]) if missing else None
    yield Check("data", f"{DATA}/frames, {DATA}/labels.csv", fault)
    folder = Path(declared_paths()["backbone"]) if PIPELINE.is_file() else None
    if folder and folder != Path(backbone) and not folder.is_dir():
        fault = f"path.backbone: {folder} does not exist, and dvc.yaml needs it. "
        yield Check("dvc.yaml", "no folder", f"{fault}Run `dvc pull {folder}.dvc`.")
