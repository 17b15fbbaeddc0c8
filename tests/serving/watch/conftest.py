"""A short video."""

import pytest

from tests.serving.video.clips import moving, write_clip


@pytest.fixture(scope="package")
def short_clip(tmp_path_factory):
    """Two seconds."""
    return write_clip(tmp_path_factory.mktemp("clip") / "short.mp4", moving(50))
