"""A short video, the model, and servers that get events."""

import pytest

from llava_dvc.serving.counter import Counter
from llava_dvc.serving.watch import delivery
from tests.serving.video.clips import moving, write_clip
from tests.serving.watch.receivers import Receiver


@pytest.fixture(scope="package")
def short_clip(tmp_path_factory):
    """Two seconds."""
    return write_clip(tmp_path_factory.mktemp("clip") / "short.mp4", moving(50))


@pytest.fixture(scope="package")
def counter(adapter_folder):
    return Counter.from_pretrained(adapter_folder)


@pytest.fixture
def start_receiver(monkeypatch):
    """Starts servers that answer with the given statuses, then with 200. Another attempt comes
    soon.
    """
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.01)
    servers = []

    def start(statuses):
        servers.append(Receiver(statuses))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
