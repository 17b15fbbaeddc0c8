"""Large frames: `llava-dvc predict` needs no more memory for many than for a few."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image


def peak_memory(*arguments: object) -> int:
    """Bytes of memory that `llava-dvc predict` had at most. It must succeed."""
    command = [Path(sys.executable).with_name("llava-dvc"), "predict", *arguments]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(running.pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024


def test_many_frames_of_64_megapixels(adapter_folder, tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    Image.new("RGB", (8000, 8000), "grey").save(folder / "0.jpg")
    for number in range(1, 8):
        shutil.copy(folder / "0.jpg", folder / f"{number}.jpg")
    assert peak_memory(folder, "--adapter", adapter_folder) < 3 * 2**30
