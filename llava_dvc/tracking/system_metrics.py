"""Use of processor, memory, disk, network and NVIDIA GPUs, measured by MLflow's collectors."""

import time
from contextlib import suppress
from typing import Any

INTERVAL = 10.0  # seconds between two samples


class SystemMetrics:
    """Samples system metrics on request.

    MLflow's own monitor thread stops, or blocks for minutes, when the tracker is lost. This class
    therefore uses only MLflow's collectors.
    """

    def __init__(self) -> None:
        self._last_sample = time.monotonic()
        self._collectors: list[Any] | None = None

    def seconds_until_due(self) -> float:
        """Seconds until the next sample, 0 or more."""
        return max(0.0, self._last_sample + INTERVAL - time.monotonic())

    def sample(self) -> dict[str, float]:
        """Values by MLflow's metric names; a metric that the machine does not offer is missing."""
        self._last_sample = time.monotonic()
        values: dict[str, float] = {}
        if self._collectors is None:
            self._collectors = start_collectors()
        for collector in self._collectors:
            with suppress(Exception):  # a container may hide its disks or its network
                collector.collect_metrics()
                values |= collector.aggregate_metrics()
                collector.clear_metrics()
        return values


def start_collectors() -> list[Any]:
    """MLflow's collectors that work on this machine."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    collectors = []
    for collector in (CPUMonitor, DiskMonitor, NetworkMonitor, GPUMonitor):
        with suppress(Exception):  # GPUMonitor raises without an NVIDIA GPU
            collectors.append(collector())
    return collectors
