"""The benchmarks are run by hand. Here they are imported: a moved name fails at once. Of Mall's
protocol the parts that need no training are tested.
"""

import importlib
from pathlib import Path

import numpy as np
import pytest

import benchmarks
from benchmarks.cross_validate import Fold, figures
from benchmarks.mall import (
    Task,
    file_name,
    mall_split,
    preset_config,
    read_fold,
    report,
    require_frames,
    tasks,
    written,
)
from llava_dvc.errors import UserError
from llava_dvc.files import write_json

NAMES = sorted(path.stem for path in Path(benchmarks.__file__).parent.glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}")


def fold(error: float, rivals: bool) -> Fold:
    count = np.arange(10.0, 20.0)
    answers = {"train_mean": count + 6, "adapter": count + error}
    if rivals:
        answers |= {"zero_shot": count + 4, "ridge_features": count + 3}
    ends = np.stack([count - 1, count + 3], axis=1)
    return Fold(count, answers, {"coverage_80": ends}, 2.5, 100, 1.25)


def test_mall_is_tuned_on_800_frames_and_tested_on_the_others():
    split = mall_split((800, 2000), 0.1)
    assert split.eval == list(range(800, 2000))
    assert split.train + split.val == list(range(800))
    assert not split.left_out
    block = mall_split((100, 200), 0.1)
    assert block.eval == list(range(100, 200))
    assert not {*block.train, *block.val} & set(range(80, 220))
    assert max(block.val) == 799


@pytest.mark.parametrize(
    ("frames", "blocks", "problem"),
    [
        (800, [(800, 2000)], "has 800 frames, and Mall's protocol needs 2000"),
        (700, [(0, 100)], "has 700 frames, and --block needs the first 800"),
        (800, [(700, 801)], "--block: is 700:801"),
    ],
)
def test_mall_refuses_what_it_cannot_measure(frames, blocks, problem):
    with pytest.raises(UserError, match=problem):
        require_frames(frames, blocks)


def test_what_is_done_is_found_again_and_nothing_of_other_settings(tmp_path):
    cfg = preset_config("tiny", [])
    first, second = tasks([17, 18], [(800, 2000)])
    assert (first.rivals, second.rivals) == (True, False)
    names = {file_name(cfg, first), file_name(cfg, second)}
    names.add(file_name(preset_config("tiny", ["train.epochs=2"]), first))
    assert len(names) == 3
    write_json(tmp_path / "fold.json", written(fold(1.0, rivals=True)))
    assert figures([read_fold(tmp_path / "fold.json")]) == figures([fold(1.0, rivals=True)])


def test_the_table_of_mall_has_the_mean_and_the_ends_of_the_seeds(tmp_path, capsys):
    block = (800, 2000)
    folds = {Task(17, block, True): fold(1.0, True), Task(18, block, False): fold(4.0, False)}
    report("tiny", folds, tmp_path)
    table = (tmp_path / "table.md").read_text()
    assert "| zero shot | 4.00 | 4.00 |  |\n" in table
    assert "| adapter | 2.50 (1.00-4.00) | 2.50 (1.00-4.00) | 100% |\n" in table
    assert "A training took 2.5 minutes and 1.2 GiB" in table
    assert table in capsys.readouterr().out
    assert (tmp_path / "errors.png").stat().st_size > 5000
