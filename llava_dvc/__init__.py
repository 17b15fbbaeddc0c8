"""Teach LLaVA to count people in CCTV frames, reproducibly."""

import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_dvc.serving.counter import Count, Counter

__all__ = ["Count", "Counter"]

# Read by libraries when they load, so it has to stand here.
#
# OpenMP's default, to wait for the other threads by spinning, makes a step several times slower as
# soon as anything else runs on the same cores, a second experiment for one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# By default MKL adds up in the way that is fastest. On AMD's processors a frame's last digits then
# depend on its place in the batch.
os.environ.setdefault("MKL_CBWR", "AUTO")
# Nothing about a run is reported to anyone, also not by the processes that this one starts. The
# Makefile and the notebook set the same.
os.environ.setdefault("DO_NOT_TRACK", "true")  # MLflow does not accept 1
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
# Notes to the libraries' own maintainers, in every stage's output.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
if sys.stderr is None or not sys.stderr.isatty():  # a log would get a line at every step
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """`Counter` and `Count` are loaded when they are asked for: they bring PyTorch with them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from llava_dvc.serving import counter

    return getattr(counter, name)
