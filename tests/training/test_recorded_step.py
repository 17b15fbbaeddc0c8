"""A recorded training step gives the weights and the log of plain steps. A recorder that needs no
GPU stands in for CUDA's: like a graph, it keeps the memory of inputs, losses and gradients.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.llama import modeling_llama

from llava_dvc.training import count_trainer
from llava_dvc.training.count_trainer import fit
from llava_dvc.training.recorded_step import RecordedStep
from llava_dvc.training.speed import can_be_recorded
from tests.training.test_count_trainer import weights
from tests.training.test_points import pointed, trainer_of  # noqa: F401

LOG = "loss", "points_loss", "grad_norm"


class CpuRecorder:
    def __init__(self):
        self.replays = 0

    def __call__(self, run):
        losses, gradients = run()
        kept = [torch.full_like(part, torch.nan) for part in (*losses, *gradients)]

        def replay():
            self.replays += 1
            losses, gradients = run()
            for old, new in zip(kept, (*losses, *gradients), strict=True):
                old.copy_(new)

        return replay, (tuple(kept[: len(losses)]), kept[len(losses) :])


def trained(trainer):
    model = fit(trainer).model
    return weights(model), [{k: e[k] for k in LOG if k in e} for e in trainer.state.log_history]


@pytest.mark.parametrize("points", [0.0, 1.0])
def test_recorded_steps_train_alike(cfg, encoder, pointed, tmp_path, monkeypatch, points):  # noqa: F811
    settings = {"points": points, "batch_size": 2, "epochs": 2}
    expected, log = trained(trainer_of(cfg, encoder, pointed, tmp_path / "a", **settings))
    recorder = CpuRecorder()
    monkeypatch.setattr(count_trainer, "can_be_recorded", lambda *_: True)
    monkeypatch.setattr(count_trainer, "CudaRecorder", lambda: recorder)
    found, same = trained(trainer_of(cfg, encoder, pointed, tmp_path / "b", **settings))
    assert recorder.replays > 2
    assert ("points_loss" in log[0]) == bool(points)
    assert same == log
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_validation_may_need_the_memory_of_the_recording(
    cfg, encoder, rows, tmp_path, monkeypatch
):
    settings = {"batch_size": 2, "epochs": 2}
    expected, log = trained(trainer_of(cfg, encoder, rows, tmp_path / "a", **settings))
    recorded = []

    def record(run):
        recorded.append(CpuRecorder())
        return recorded[-1](run)

    monkeypatch.setattr(count_trainer, "can_be_recorded", lambda *_: True)
    monkeypatch.setattr(count_trainer, "CudaRecorder", lambda: record)
    trainer = trainer_of(cfg, encoder, rows, tmp_path / "b", **settings)
    predict, failures = trainer.predictor.predict, [torch.OutOfMemoryError("no memory")]

    def predict_later(*given):
        if failures:
            assert trainer._step.recording
            raise failures.pop()
        return predict(*given)

    monkeypatch.setattr(trainer.predictor, "predict", predict_later)
    found, same = trained(trainer)
    assert not failures
    assert [one.replays > 0 for one in recorded] == [True, True]  # one in each epoch
    assert same == log
    assert all(torch.equal(found[name], expected[name]) for name in expected)


class Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.add(operator.overloadpacket.__name__)
        return operator(*args, **kwargs or {})


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "masked_scatter_backward", "unique2"}
"""Operators whose results decide what Python does next, or how large a tensor is."""


@pytest.mark.parametrize("points", [0.0, 1.0])
@pytest.mark.parametrize("vision", [False, True])
def test_no_pass_waits_for_the_gpu(cfg, encoder, pointed, tmp_path, vision, points):  # noqa: F811
    adapter = cfg.adapter.model_copy(update={"vision": vision, "projector": True})
    cfg = cfg.model_copy(update={"adapter": adapter})
    trainer = trainer_of(cfg, encoder, pointed, tmp_path, points=points)
    trainer.model.train()
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    with Operators() as seen:
        trainer.training_step(trainer.model, batch, torch.tensor(4))
    assert {"embedding", "mm"} <= seen.names
    assert not seen.names & WAITING


def test_a_batch_of_another_shape_runs_as_it_is():
    weight, recorder = torch.nn.Parameter(torch.ones(2)), CpuRecorder()

    def step(batch, tokens):
        loss = (batch["x"] * weight).sum() / tokens
        loss.backward()
        return (loss.detach(),)

    recorded = RecordedStep(step, [weight], recorder)
    for rows, replays in ((3, 0), (3, 1), (1, 1), (3, 2)):
        weight.grad = None
        [loss] = recorded({"x": torch.full((rows, 2), 2.0), "kept": 1}, torch.tensor(4))
        assert loss == rows
        assert weight.grad.tolist() == [rows / 2] * 2
        assert recorder.replays == replays
    weight.grad = None
    recorded({"x": torch.ones(3, 2), "kept": 2}, torch.tensor(4))  # another number
    assert recorder.replays == 2


def test_without_memory_beside_it_the_recording_is_forgotten_and_made_again():
    weight, recorder = torch.nn.Parameter(torch.ones(2)), CpuRecorder()

    def step(batch, tokens):
        rows = batch.pop("x")  # like the trainer, which takes out what it has read
        loss = (rows * weight).sum() / tokens
        loss.backward()
        if recorded.recording and len(rows) == 1:
            raise torch.OutOfMemoryError("no memory beside the recording")
        return (loss.detach(),)

    recorded = RecordedStep(step, [weight], recorder)
    for rows, kept in ((3, False), (3, True), (1, False), (3, True)):
        weight.grad = None
        [loss] = recorded({"x": torch.full((rows, 2), 2.0)}, torch.tensor(4))
        assert loss == rows
        assert weight.grad.tolist() == [rows / 2] * 2
        assert bool(recorded.recording) == kept
    assert recorded.beside(lambda: 5) == 5
    assert recorded.recording


def test_too_little_memory_without_a_recording_is_an_error():
    def fail():
        raise torch.OutOfMemoryError("no memory")

    recorded = RecordedStep(lambda *_: (), [], CpuRecorder())
    with pytest.raises(torch.OutOfMemoryError):
        recorded.beside(fail)


NOT_PERMITTED = "CUDA error: operation not permitted"
MEMORY = (
    "too little GPU memory; more recomputed layers (train.checkpointing) or a smaller "
    "train.batch_size need less"
)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(f"{NOT_PERMITTED}\nmore"), NOT_PERMITTED),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), MEMORY),
    ],
)
def test_training_goes_on_if_nothing_can_be_recorded(
    cfg, encoder, rows, tmp_path, monkeypatch, capsys, error, reason
):
    expected, log = trained(trainer_of(cfg, encoder, rows, tmp_path / "a"))

    def fail(run):
        run()
        raise error

    monkeypatch.setattr(count_trainer, "can_be_recorded", lambda *_: True)
    monkeypatch.setattr(count_trainer, "CudaRecorder", lambda: fail)
    found, same = trained(trainer_of(cfg, encoder, rows, tmp_path / "b"))
    assert same == log
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    said = f"The training step cannot be recorded ({reason}). Training goes on without a CUDA graph"
    assert capsys.readouterr().err.count(f"{said}, slower.\n") == 1


def test_what_can_be_recorded(cfg, backbone):
    """Nothing on a CPU."""
    assert not can_be_recorded(cfg.train, cfg.adapter, backbone)


def test_a_training_pass_makes_no_mask(cfg, encoder, rows, tmp_path, monkeypatch):
    """Making one looks at the positions, and waits for the GPU."""
    trainer = trainer_of(cfg, encoder, rows, tmp_path)
    batch = trainer.data_collator([rows[0], rows[1]])
    masked = []
    monkeypatch.setattr(modeling_llama, "create_causal_mask", lambda **_: masked.append(1))
    assert trainer.compute_loss(trainer.model, batch).isfinite()
    assert not masked
