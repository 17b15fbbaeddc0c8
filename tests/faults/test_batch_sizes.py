"""Compiled counting works with every size of the first and of the last batch, and so does counting
with recorded sizes.
"""

import os
from pathlib import Path

import pytest
import torch
from torch._dynamo import config as compiler
from torch._dynamo.utils import counters

from llava_dvc.config import Config
from llava_dvc.evaluation.cuda_graphs import CACHE_VARIABLE, record_sizes
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.encoder import Encoder
from tests.conftest import frame
from tests.evaluation.test_cuda_graphs import compiled_predictor
from tests.evaluation.test_merged_weights import tuned

LARGEST = 33


def test_every_first_and_last_batch(
    cfg: Config, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(compiler, "recompile_limit", 2 * LARGEST)
    frames = [frame(seed) for seed in range(2 * LARGEST)]
    plain, folded = tuned(cfg), tuned(cfg)
    expected = CountPredictor(plain, encoder, "How many?", 60).predict(frames, 11).probabilities
    merge_and_compile(folded, backend="aot_eager")
    predictor = CountPredictor(folded, encoder, "How many?", 60)
    for first in range(LARGEST, 0, -1):  # no smaller batch has been compiled then
        for last in {1, LARGEST + 1 - first, first}:  # together all from 1 to LARGEST
            found = predictor.predict(frames[: first + last], first).probabilities
            assert abs(found - expected[: first + last]).max() < 1e-6, (first, last)


def test_all_recorded_sizes_are_compiled_ahead_and_nothing_later(
    cfg: Config, encoder: Encoder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    frames = [frame(seed) for seed in range(LARGEST)]
    plain = CountPredictor(tuned(cfg), encoder, "How many?", 60)
    expected = plain.predict(frames, 11)
    compiled = compiled_predictor(cfg, encoder, "aot_eager")
    before = counters["stats"]["unique_graphs"]
    record_sizes(compiled, lambda size: compiled.predict([frame(99)] * size, size), LARGEST)
    assert [shape[0] for shape in compiled.step.recorded] == [64, 32, 16, 8, 4, 2, 1]
    graphs = counters["stats"]["unique_graphs"] - before
    # Tower, both halves of a layer for prompts and for last tokens, and the last layer for prompts.
    assert graphs == 6 * 7
    for number in range(1, LARGEST + 1):
        found = compiled.predict(frames[:number], number)
        assert abs(found.probabilities - expected.probabilities[:number]).max() < 1e-6, number
        assert found.replies == expected.replies[:number], number
    compiled.predict(frames[:1] * 65, 65)  # of a size that comes later: recorded, not compiled
    assert len(compiled.step.recorded) == 8
    assert counters["stats"]["unique_graphs"] - before == graphs
    assert os.environ[CACHE_VARIABLE] == str(tmp_path / "llava-dvc" / "compiled")
