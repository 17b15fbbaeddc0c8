"""Counting in recorded sizes gives the answers of the plain path. A recorder that needs no GPU
stands in for CUDA's: like a graph, it keeps the memory of inputs and results.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llava_dvc.config import Config
from llava_dvc.evaluation.cuda_graphs import RecordedSizes, pad_rows, padded_size, padded_sizes
from llava_dvc.evaluation.merged_weights import bytes_to_merge, merge_and_compile, merge_layers
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import Answered, CountPredictor
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.model_patches import trust_image_tokens
from tests.conftest import frame
from tests.evaluation.test_merged_weights import tuned
from tests.model.test_model_patches import changed


def record_on_cpu(run: Callable[[], Answered]) -> tuple[Callable[[], None], Answered]:
    results = tuple(torch.zeros_like(result) for result in run())

    def replay() -> None:
        for kept, new in zip(results, run(), strict=True):
            kept.copy_(new)

    return replay, results


@pytest.fixture
def plain(cfg: Config, encoder: Encoder) -> CountPredictor:
    return CountPredictor(tuned(cfg), encoder, "How many?", 60)


def test_merged_and_padded_frames_are_answered_alike(
    plain: CountPredictor, cfg: Config, encoder: Encoder
) -> None:
    frames = [frame(seed) for seed in range(20)]
    expected = plain.predict(frames, 10)
    model = tuned(cfg)
    merge_layers(model)
    fast = CountPredictor(model, encoder, "How many?", 60)
    fast.step = RecordedSizes(fast.answer, record_on_cpu)
    for number in (1, 2, 3, 5, 9, 3, 1):
        found = fast.predict(frames[number : 2 * number], number)
        wanted = expected.probabilities[number : 2 * number]
        assert abs(found.probabilities - wanted).max() < 1e-6, number
        assert found.replies == expected.replies[number : 2 * number], number
    assert [shape[0] for shape in fast.step.recorded] == [1, 2, 4, 8, 16]


def test_a_last_batch_is_padded_too(plain: CountPredictor) -> None:
    frames = [frame(seed) for seed in range(7)]
    expected = plain.predict(frames, 4)
    plain.step = RecordedSizes(plain.answer, record_on_cpu)
    found = plain.predict(frames, 4)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert [shape[0] for shape in plain.step.recorded] == [4]


@pytest.mark.parametrize(
    ("rows", "size"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 64), (65, 96)]
)
def test_the_sizes(rows: int, size: int) -> None:
    assert padded_size(rows) == size
    padded = pad_rows({"x": torch.arange(rows)}, size)["x"].tolist()
    assert padded == [*range(rows), *[rows - 1] * (size - rows)]


def test_all_sizes_of_a_batch_size() -> None:
    assert padded_sizes(8) == [8, 4, 2, 1]
    assert padded_sizes(12) == [16, 8, 4, 2, 1]


def test_frames_of_several_sizes_use_their_own_border(cfg: Config) -> None:
    """Two sizes can have as many tokens each. What is recorded reads the border of the last."""
    image = cfg.image.model_copy(update={"geometry": "pad", "drop_border": True})
    encoder = backbone_encoder(cfg.backbone, image)
    sizes = [(64, 32), (32, 64), (64, 48), (32, 64), (64, 32)]
    predictor = CountPredictor(tuned(cfg), encoder, "How many?", 60)
    expected = [predictor.predict([frame(3, size)], 1).probabilities for size in sizes]
    predictor.step = RecordedSizes(predictor.answer, record_on_cpu)
    for size, wanted in zip(sizes, expected, strict=True):
        found = predictor.predict([frame(3, size)], 1).probabilities
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_counting_goes_on_if_nothing_can_be_recorded(
    plain: CountPredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [frame(seed) for seed in range(3)]
    expected = plain.predict(frames, 2)
    asked = 0

    def fail(run: Callable[[], Answered]) -> tuple[Callable[[], None], Answered]:
        nonlocal asked
        asked += 1
        raise RuntimeError("CUDA error: operation not permitted\nmore")

    plain.step = RecordedSizes(plain.answer, fail)
    found = plain.predict(frames, 2)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert capsys.readouterr().err.splitlines() == [
        "CUDA graphs cannot be recorded (CUDA error: operation not permitted). Counting goes on "
        "without them, slower."
    ]
    assert asked == 1


def test_each_size_is_compiled(plain: CountPredictor, encoder: Encoder, cfg: Config) -> None:
    """Also the second size of one call, and no size twice."""
    frames = [frame(seed) for seed in range(5)]
    expected = plain.predict(frames, 4)
    model, rows = tuned(cfg), []

    def note(graph: Any, inputs: list[Any]) -> Any:
        rows.append({x.shape[0] for x in inputs if x.ndim > 2})
        return graph.forward

    torch._dynamo.reset()
    merge_and_compile(model, backend=note)
    fast = CountPredictor(model, encoder, "How many?", 60)
    fast.step = RecordedSizes(fast.answer, record_on_cpu)
    fast.predict(frames, 4)
    compiled = len(rows)
    found = fast.predict(frames, 4)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    assert {4, 1} <= set().union(*rows)
    assert len(rows) == compiled


def test_counting_goes_on_if_nothing_can_be_compiled(
    plain: CountPredictor, encoder: Encoder, cfg: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [frame(seed) for seed in range(3)]
    expected = plain.predict(frames, 2)
    model = tuned(cfg)

    def fail(*_: Any) -> Any:
        raise RuntimeError("no C compiler\nmore")

    torch._dynamo.reset()
    merge_and_compile(model, backend=fail)
    fast = CountPredictor(model, encoder, "How many?", 60)
    fast.step = RecordedSizes(fast.answer, record_on_cpu)
    found = fast.predict(frames, 2)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("The layers cannot be compiled (")
    assert "no C compiler" in line
    assert line.endswith("Counting goes on without, slower.")


class ReadsBack(TorchDispatchMode):
    """Notes the operators that give Python a value: on a GPU they wait, and nothing can record
    them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if {"_local_scalar_dense", "nonzero", "lift_fresh"} & {str(op).split(".")[1]}:
            self.found.add(str(op))
        return op(*args, **(kwargs or {}))


@pytest.mark.parametrize("merged", [False, True])
def test_nothing_in_a_step_waits_for_the_gpu(merged: bool, plain: CountPredictor) -> None:
    plain.flip = True
    trust_image_tokens(plain.model)
    if merged:
        merge_layers(plain.model)
    batch = next(plain.batches([frame(0), frame(1)], 2))
    with torch.no_grad(), ReadsBack() as watched:
        plain.answer(batch)
    assert watched.found == set()


def test_merging_needs_memory_only_for_packed_weights(cfg: Config) -> None:
    def bytes_of(**backbone: object) -> int:
        return bytes_to_merge(load_backbone(changed(cfg, backbone=backbone).backbone))

    numbers = 2 * (4 * 64 * 64 + 3 * 64 * 128)
    assert bytes_of(quantization="nf4", unpacked=False) == numbers * 4 - numbers // 2
    assert bytes_of(quantization="nf4", unpacked=True) == 0
    assert bytes_of(quantization="none", unpacked=False) == 0
