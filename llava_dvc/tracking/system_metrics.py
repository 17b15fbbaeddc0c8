"""Use of processor, memory, disk, network and NVIDIA GPUs, measured by MLflow's collectors."""

import os
import platform
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

INTERVAL = 10.0  # seconds between two samples
GIB = 2**30
CPU_MODEL = Path("/proc/cpuinfo")


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


def stage_name() -> str | None:
    """The stage that this process is, None if it is no stage of dvc.yaml."""
    script = Path(sys.argv[0])
    return script.stem if script.parent.name == "stages" else None


def process_usage() -> dict[str, float]:
    """Minutes since this process began, and the most memory that it has held, in GiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    usage = {
        "minutes": (time.time() - psutil.Process().create_time()) / 60,
        "peak_memory_gib": peak * (1 if sys.platform == "darwin" else 1024) / GIB,
    }
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_initialized():
        usage["peak_gpu_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
    return usage


def machine_name() -> str:
    """Cores, processor, memory and GPUs, as in `2 cores of AMD EPYC, 8 GiB`."""
    memory = f"{psutil.virtual_memory().total / GIB:.0f} GiB"
    parts = [f"{os.cpu_count()} cores of {_processor_name()}", memory]
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        parts += [f"{names.count(name)} x {name}" for name in sorted(set(names))]
    return ", ".join(parts)


def _processor_name() -> str:
    with suppress(OSError):
        for line in CPU_MODEL.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
