"""A stage waits for the libraries it needs, and for no others."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

LATE = {"mlflow"}  # loaded in the background, by tracking
MODEL = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate"}
UNUSED = {
    "stages.prepare": LATE | MODEL | {"matplotlib"},
    "stages.baseline": LATE | {"trl", "peft", "matplotlib"},
    "stages.train": LATE | {"sklearn", "matplotlib"},
    "stages.evaluate": LATE | {"trl"},
    "stages.publish": LATE | MODEL | {"sklearn", "pandas", "datasets", "matplotlib"},
    "llava_dvc.cli": LATE | MODEL | {"numpy", "pandas", "datasets", "sklearn", "matplotlib"},
}


@pytest.mark.parametrize("module", UNUSED)
def test_no_library_is_loaded_in_vain(module):
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = {name for name in done.stdout.split() if "." not in name}
    assert loaded & UNUSED[module] == set()
