"""A short video, and the model."""

import pytest

from llava_dvc.serving.counter import Counter
from tests.serving.video.clips import moving, write_clip


@pytest.fixture(scope="package")
def short_clip(tmp_path_factory):
    """Two seconds."""
    return write_clip(tmp_path_factory.mktemp("clip") / "short.mp4", moving(50))


@pytest.fixture(scope="package")
def counter(adapter_folder):
    return Counter.from_pretrained(adapter_folder)
