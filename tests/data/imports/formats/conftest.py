from pathlib import Path

import pytest
from PIL import Image

from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.import_source import ImportPlan, import_source
from llava_dvc.errors import UserError

SIZE = (64, 48)


def picture(path: Path, shade: int = 0, size=SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade or sum(path.name.encode()) % 200 + 20).save(path)
    return path


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def load(source, tmp_path):
    """Imports and returns {name: (count, points)}; `load.lines` has what was said."""
    data = tmp_path / "data"

    def call(given=source, format=None, frames=None, **choices):
        call.lines = []
        plan = ImportPlan(given, format, frames, ImportChoices(**choices))
        count = import_source(plan, data, call.lines.append)
        result = {
            frame.name: (frame.count, frame.points) for frame in read_frames(data, exclude=())
        }
        assert len(result) == count
        return result

    return call


@pytest.fixture
def refuse(load, tmp_path):
    """Imports, expects an error, and returns its text. Nothing may be written."""

    def call(*args, **choices):
        with pytest.raises(UserError) as caught:
            load(*args, **choices)
        assert not (tmp_path / "data").exists()
        return str(caught.value)

    return call
