"""A small archive, an adapter, and a Ray cluster of two nodes on this machine."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llava_dvc.archive.results import ResultFolder
from llava_dvc.model.backbone import backbone_encoder
from llava_dvc.serving.counter import Counter
from llava_dvc.serving.predict import count_paths
from llava_dvc.serving.sources import find_sources
from tests.conftest import config_on, frame, write_adapter, write_checkpoint

WIDTH = 128  # features a token: on 64, a batch of one frame has the digits of a larger batch
NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}
Counts = dict[str, tuple[Any, ...]]


@pytest.fixture(scope="session")
def wide_adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter whose last digits depend on the size of a batch."""
    folder = tmp_path_factory.mktemp("wide")
    wide = config_on(write_checkpoint(folder / "backbone", WIDTH))
    return write_adapter(folder / "adapter", wide, backbone_encoder(wide.backbone, wide.image))


@pytest.fixture(scope="session")
def node_args(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each node: two CPUs, an object store, and a folder for temporary files, `TMPDIR`."""
    folder = tmp_path_factory.mktemp("nodes")
    return NODE | {"env_vars": {"TMPDIR": str(folder)}}


def one_node(node_args: dict[str, Any]) -> Any:
    """A running cluster of one node."""
    importlib.import_module("llava_dvc.archive.cluster")  # says how Ray starts workers
    from ray.cluster_utils import Cluster

    return Cluster(initialize_head=True, head_node_args=node_args | {"include_dashboard": False})


@pytest.fixture(scope="session")
def cluster(node_args: dict[str, Any]) -> Any:
    """Two nodes."""
    running = one_node(node_args)
    running.add_node(**node_args)
    yield running
    running.shutdown()


@pytest.fixture
def left_folders(node_args: dict[str, Any]) -> Callable[[], list[Path]]:
    """Finds the folders of jobs on the nodes."""
    return lambda: list(Path(node_args["env_vars"]["TMPDIR"]).glob("llava-dvc-*"))


def write_day(folder: Path, frames: int, seed: int) -> None:
    """Writes frames of one camera and day: 00-00-00.png and so on, one a minute."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(frames):
        frame(seed + number).save(folder / f"08-{number:02d}-00.png")


def predicted(archive: Path, adapter: Path) -> Counts:
    """What `llava-dvc predict` counts, with all digits."""
    counter = Counter.from_pretrained(adapter)
    found = count_paths(counter, find_sources([str(archive)]), 1.0, [])
    return {
        one.name: (count.count, count.low, count.high, list(count.probabilities))
        for one, count in found
    }


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out / "counts").to_pylist()


def counted(out: Path) -> Counts:
    """The same from the files of an archive; no frame is there twice."""
    rows = rows_of(out)
    names = ("count", "low", "high", "probabilities")
    found = {row["frame"]: tuple(row[name] for name in names) for row in rows}
    assert len(found) == len(rows)
    return found


def failed(out: Path) -> dict[str, str]:
    return {row["frame"]: row["error"] for row in pq.read_table(out / "failed.parquet").to_pylist()}


@pytest.fixture
def results(tmp_path: Path) -> Any:
    folder = ResultFolder(tmp_path / "out", {"adapter": "a", "every": 1.0})
    yield folder
    folder.close()
    shutil.rmtree(tmp_path / "out")
