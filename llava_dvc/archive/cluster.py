"""Reads and counts blocks on a Ray cluster. Nothing else imports Ray."""

import logging
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llava_dvc.archive.block_counter import ArchiveModel, BlockCounter
from llava_dvc.archive.blocks import Block
from llava_dvc.archive.node_folder import remove_folder
from llava_dvc.archive.reading import Row, read_block
from llava_dvc.config import Backbone
from llava_dvc.errors import UserError, one_line
from llava_dvc.recipe import Recipe

# Read when Ray is imported. Nothing is reported to anyone, and Ray's own log stays in its files.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# Under `uv run`, workers would start by uv's path in a copy of this folder, where it may not be.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

try:
    import ray
    import ray.data
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise UserError("--ray: Ray is not installed. Run `pip install 'llava-dvc[ray]'`.") from None

ROWS = 16
"""That a model gets at once: of 4K, 400 MB."""
BLOCK_BYTES = 32 * 2**20
"""Of frames that a node sends at once."""
CONNECT = 5.0  # seconds
CLEAN_UP = 10.0  # seconds
HTTP2_START = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
HTTP2_SETTINGS = b"\4"
"""What a client of gRPC sends first, and the kind of frame that a server answers (RFC 9113, 3.4).
"""


@contextmanager
def connected(address: str, threads: int) -> Iterator[str]:
    """Connects to a cluster, and gives the name of a new job. Raises UserError when there is none.

    At the end the folders of the job are removed from all nodes.
    """
    _require_listening(address)
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray would set it to the CPUs that a process reserves. predict uses as many as the recipe says.
    environment = {"env_vars": {"OMP_NUM_THREADS": str(threads)}}
    try:
        ray.init(address, runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise _no_cluster(address, error) from None
    job = uuid.uuid4().hex
    try:
        yield job
    finally:
        _remove_folders(job)
        ray.shutdown()


def counted_rows(
    blocks: Sequence[Block], model: ArchiveModel, recipe: Recipe, every: float
) -> Iterator[Row]:
    """Yields rows of all blocks, in any order: those of `read_block`, with counts for pixels.

    Raises UserError when a node cannot load the model.
    """
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    items = [{"block": block} for block in blocks]
    models, zones = min(_models(recipe.backbone), len(items)), recipe.zones

    def read(batch: Any) -> Iterator[Any]:
        yield from read_block(batch["block"][0], every, zones)

    counted = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(read, batch_size=1, num_cpus=1)
        .map_batches(
            BlockCounter,
            fn_constructor_args=[model],
            batch_size=ROWS,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=models),
            num_gpus=1 if recipe.backbone.device == "cuda" else 0,
            # A process that reserves no CPU finds another node when its own is gone, and always
            # leaves room for reading.
            num_cpus=0,
        )
    )
    for row in counted.iter_rows():
        if row["block"] is None:
            raise UserError(row["error"])
        yield row


def _remove_folders(job: str) -> None:
    """A node that does not answer is cleaned up by the next job on it."""
    remove = ray.remote(num_cpus=0)(remove_folder)
    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in _nodes()]
    tasks = [remove.options(scheduling_strategy=node).remote(job) for node in nodes]
    ray.wait(tasks, num_returns=len(tasks), timeout=CLEAN_UP)


def _nodes() -> list[Any]:
    known: list[Any] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node for node in known if node["Alive"]]


def _models(backbone: Backbone) -> int:
    """One for each GPU, or for each `threads` cores of a node. One core of a node reads frames."""
    nodes = [node["Resources"] for node in _nodes()]
    if backbone.device == "cuda":
        return max(1, int(sum(node.get("GPU", 0) for node in nodes)))
    return sum(max(1, int(node.get("CPU", 1) - 1) // backbone.threads) for node in nodes)


def _require_listening(address: str) -> None:
    """Ray itself waits for minutes at an address at which nobody, or somebody else, listens."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=CONNECT) as connection:
            if os.environ.get("RAY_USE_TLS") == "1":
                return
            connection.sendall(HTTP2_START)
            if connection.recv(4)[3:] != HTTP2_SETTINGS:
                raise OSError("something else listens there")
    except (OSError, ValueError, OverflowError) as error:
        raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"--ray: {address}: no Ray cluster there ({one_line(str(error))}). Start one with "
        "`ray start --head`, and write auto, or its HOST:PORT."
    )
