"""The loss on where people stand: its targets in every geometry, and what it changes."""

from functools import partial

import pytest
import torch
from PIL import Image

from llava_dvc import config
from llava_dvc.checks.preflight import RequestedModel, require_model
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.augment import augmented_image, augmented_points
from llava_dvc.training.collator import Collator
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit
from llava_dvc.training.points import PointHead, token_density
from tests.training.test_count_trainer import Stop, StopAfter, weights


@pytest.fixture(scope="session")
def pointed(rows):
    """The eight frames, with the points of as many people as their labels say."""
    points = [[{"x": 8.0 * (i % 8), "y": 1.0 * i} for i in range(n)] for n in rows["count"]]
    return rows.remove_columns("points").add_column("points", points)


def trainer_of(cfg, encoder, rows, folder, callbacks=(), **changes):
    settings = cfg.train.model_copy(update=changes)
    spec = TrainingSpec(
        rows, rows.select(range(2)), cfg.adapter, settings, cfg.seed, folder, callbacks
    )
    return CountTrainer(load_backbone(cfg.backbone), encoder, spec)


@pytest.mark.parametrize("place", [(0.375, 0.625), (0.0, 1.0), (0.5, 0.5), (0.93, 0.2)])
def test_a_person_is_one_in_the_sum_of_the_tokens_around(place):
    density = token_density([place], 4)
    torch.testing.assert_close(density.sum(), torch.tensor(1.0))
    rows, columns = density.view(4, 4).nonzero().T
    for found, where in ((columns, place[0]), (rows, place[1])):
        assert ((found + 0.5) / 4 - where).abs().max() <= 0.25


def test_a_person_at_the_centre_of_a_token_is_in_it_alone():
    assert token_density([(0.375, 0.625)], 4).nonzero().tolist() == [[9]]


def test_nobody_and_people_outside_the_square_are_not_counted():
    assert token_density([], 4).tolist() == [0] * 16
    assert token_density([(-0.1, 0.5), (0.5, 1.1), (0.5, 0.5)], 4).sum() == 1


@pytest.mark.parametrize("geometry", ["pad", "squash", "crop"])
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (600, 200)])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_point_is_where_the_model_sees_it(cfg, geometry, size, mirror):
    """A white square changes the pixels around the place of its point."""
    encoder = backbone_encoder(
        cfg.backbone, config.Image(geometry=geometry, drop_border=False, tiles=(1, 1))
    )
    image, x, y = Image.new("RGB", size), size[0] * 0.45, size[1] * 0.4
    row = {"frame": "a", "image": image, "copy": int(mirror), "points": [{"x": x, "y": y}]}
    black = encoder.pixels([augmented_image(row, ["flip"])])[0]
    image.paste((255, 255, 255), (round(x) - 9, round(y) - 9, round(x) + 9, round(y) + 9))
    change = (encoder.pixels([augmented_image(row, ["flip"])])[0] - black).abs().mean(dim=0)
    centres = (torch.arange(len(change)) + 0.5) / len(change)
    where = [float((change.sum(dim=axis) / change.sum()) @ centres) for axis in (0, 1)]
    [point] = augmented_points(row, ["flip"])
    assert encoder.locate(point, size) == pytest.approx(where, abs=0.01)


def test_tokens_of_a_dropped_border_are_left_out(cfg, pointed):
    encoder = backbone_encoder(
        cfg.backbone, config.Image(geometry="pad", drop_border=True, tiles=(1, 1))
    )
    wide = [row | {"image": row["image"].crop((0, 0, 64, 32))} for row in pointed]
    batch = Collator(encoder, points_of=partial(augmented_points, kinds=()))(wide[:3])
    tokens = (batch["input_ids"] == encoder.processor.image_token_id).sum(dim=1)
    assert tokens.tolist() == [8, 8, 8]
    assert batch["density"].shape == (3, 8)
    torch.testing.assert_close(batch["density"].sum(dim=1), torch.tensor([3.0, 12.0, 7.0]))


def test_the_loss_is_least_at_the_truth():
    head, density = PointHead(4, 0.1), torch.tensor([[0.0, 2.0, 0.5], [0.0, 0.0, 0.25]])
    losses = []
    for rates in (density, density * 1.2, density * 0.8, density.roll(1, dims=1)):
        head.rates = rates + 1e-5
        losses.append(float(head.loss(density)))
    assert losses.index(min(losses)) == 0


def test_it_is_added_with_its_weight(cfg, encoder, pointed, tmp_path):
    found = {}
    for weight in (0.0, 1.0, 3.0):
        trainer = trainer_of(cfg, encoder, pointed, tmp_path, points=weight)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
        found[weight] = float(trainer.compute_loss(trainer.model, batch).detach())
        assert (trainer.point_head is None) == (weight == 0)
    assert found[1.0] > found[0.0]
    assert found[3.0] - found[0.0] == pytest.approx(3 * (found[1.0] - found[0.0]), rel=1e-4)


def test_a_step_of_several_batches_takes_their_mean(cfg, encoder, pointed, tmp_path):
    trainer = trainer_of(cfg, encoder, pointed, tmp_path, points=1.0)
    few = [trainer.train_dataset[i] for i in range(2)]
    found = {}
    for batches in (1, 4):
        trainer.current_gradient_accumulation_steps = batches
        batch, tokens = trainer.data_collator(few), 10 * batches
        found[batches] = float(trainer.compute_loss(trainer.model, batch, False, tokens).detach())
    assert found[1] == pytest.approx(4 * found[4], rel=1e-4)


def test_training_learns_the_points_and_forgets_the_head(cfg, encoder, pointed, tmp_path):
    changes = {"points": 1.0, "epochs": 8, "batch_size": 2, "learning_rate": 1e-2}
    trainer = trainer_of(cfg, encoder, pointed, tmp_path, **changes)
    require_model(trainer, RequestedModel(cfg.backbone, cfg.image, cfg.adapter))
    tuned = fit(trainer)
    losses = [entry["points_loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 32
    assert sum(losses[-8:]) < 0.95 * sum(losses[:8])
    assert all("lora_" in name for name in tuned.weights)
    assert not any("point_head" in name for name, _ in tuned.model.named_modules())


def test_without_points_nothing_differs(cfg, encoder, rows, pointed, tmp_path):
    on = trainer_of(cfg, encoder, rows, tmp_path / "a", points=1.0)
    off = trainer_of(cfg, encoder, pointed, tmp_path / "b", points=0.0)
    assert on.point_head is None
    first, second = weights(fit(on).model), weights(fit(off).model)
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items())


def test_a_resumed_training_has_its_head_again(cfg, encoder, pointed, tmp_path):
    def tuned(folder, *callbacks):
        return fit(trainer_of(cfg, encoder, pointed, folder, callbacks, points=1.0)).weights

    whole = tuned(tmp_path / "whole")
    with pytest.raises(Stop):
        tuned(tmp_path / "killed", StopAfter(3))
    resumed = tuned(tmp_path / "killed")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_points_that_no_adapter_can_learn_are_refused(cfg, encoder, pointed, tmp_path):
    language = cfg.adapter.model_copy(update={"projector": False, "vision": False})
    settings = cfg.train.model_copy(update={"points": 0.5})
    spec = TrainingSpec(pointed, pointed, language, settings, cfg.seed, tmp_path)
    with pytest.raises(UserError, match=r"train.points: is 0.5, but adapter.projector and"):
        CountTrainer(load_backbone(cfg.backbone), encoder, spec)
