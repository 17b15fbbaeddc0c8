"""Compiled counting works with every size of the first and of the last batch, and so does counting
with recorded sizes.
"""

import torch
from torch._dynamo import config as compiler

from llava_dvc.config import Config
from llava_dvc.evaluation.cuda_graphs import RecordedSizes
from llava_dvc.evaluation.merged_weights import merge_and_compile, merge_layers
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.encoder import Encoder
from tests.conftest import frame
from tests.evaluation.test_cuda_graphs import record_on_cpu
from tests.evaluation.test_merged_weights import tuned

LARGEST = 33


# A patch of its own: undoing monkeypatch's hides the setting from later code.
@compiler.patch(recompile_limit=2 * LARGEST)
def test_every_first_and_last_batch(cfg: Config, encoder: Encoder) -> None:
    torch._dynamo.reset()
    frames = [frame(seed) for seed in range(2 * LARGEST)]
    plain, folded = tuned(cfg), tuned(cfg)
    expected = CountPredictor(plain, encoder, "How many?", 60).predict(frames, 11).probabilities
    merge_and_compile(folded, backend="aot_eager")
    predictor = CountPredictor(folded, encoder, "How many?", 60)
    for first in range(LARGEST, 0, -1):  # no smaller batch has been compiled then
        for last in {1, LARGEST + 1 - first, first}:  # together all from 1 to LARGEST
            found = predictor.predict(frames[: first + last], first).probabilities
            assert abs(found - expected[: first + last]).max() < 1e-6, (first, last)


def test_every_number_of_frames_in_recorded_sizes(cfg: Config, encoder: Encoder) -> None:
    frames = [frame(seed) for seed in range(2 * LARGEST)]
    expected = CountPredictor(tuned(cfg), encoder, "How many?", 60).predict(frames, 11)
    model = tuned(cfg)
    merge_layers(model)
    fast = CountPredictor(model, encoder, "How many?", 60)
    fast.step = RecordedSizes(fast.answer, record_on_cpu)
    for number in range(1, LARGEST + 1):
        found = fast.predict(frames[number : 2 * number], number)
        wanted = expected.probabilities[number : 2 * number]
        assert abs(found.probabilities - wanted).max() < 1e-6, number
        assert found.replies == expected.replies[number : 2 * number], number
    assert [shape[0] for shape in fast.step.recorded] == [1, 2, 4, 8, 16, 32, 64]
