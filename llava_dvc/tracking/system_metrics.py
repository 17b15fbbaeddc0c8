"""How busy the machine is while a run lasts, by MLflow's own monitors."""

import time
from contextlib import suppress
from typing import Any

EVERY = 10.0  # seconds between two samples


class Machine:
    """Processor, memory, disk and network, and NVIDIA GPUs.

    MLflow's monitor thread would end, or wait minutes, with a lost tracker; its collectors are used
    alone.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._monitors: list[Any] | None = None

    def due(self) -> float:
        """Seconds until the next sample, 0 or more."""
        return max(0.0, self._last + EVERY - time.monotonic())

    def sample(self) -> dict[str, float]:
        """By MLflow's names; empty where the machine does not tell."""
        self._last = time.monotonic()
        found: dict[str, float] = {}
        for monitor in self._started():
            with suppress(Exception):  # a container may hide its disks or its network
                monitor.collect_metrics()
                found |= monitor.aggregate_metrics()
                monitor.clear_metrics()
        return found

    def _started(self) -> list[Any]:
        if self._monitors is None:
            from mlflow.system_metrics.metrics import (
                cpu_monitor,
                disk_monitor,
                gpu_monitor,
                network_monitor,
            )

            self._monitors = []
            for kind in (
                cpu_monitor.CPUMonitor,
                disk_monitor.DiskMonitor,
                network_monitor.NetworkMonitor,
                gpu_monitor.GPUMonitor,
            ):
                with suppress(Exception):  # no GPU
                    self._monitors.append(kind())
        return self._monitors
