"""Training on tiles: their rows, and an adapter that counts whole frames by their tiles."""

from functools import partial

import numpy as np
import pytest
import torch

from llava_dvc.checks.preflight import RequestedModel, require_model
from llava_dvc.conversation import question_text
from llava_dvc.errors import UserError
from llava_dvc.model.adapter import load_adapter, save_adapter
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.tiles import tile_boxes
from llava_dvc.training.augment import augmented_image, augmented_points, augmented_rows
from llava_dvc.training.collator import Collator, batch_shape
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit
from llava_dvc.training.tile_rows import with_tiles
from tests.recipes import recipe
from tests.training.test_points import pointed, trainer_of

__all__ = ["pointed"]  # a fixture


@pytest.fixture(scope="session")
def tiled(cfg):
    """The settings with tiles."""
    return cfg.model_copy(update={"image": cfg.image.model_copy(update={"tiles": (2, 2)})})


@pytest.fixture(scope="session")
def cutting(tiled):
    return backbone_encoder(tiled.backbone, tiled.image)


def test_tiles_have_the_people_of_their_frame(pointed):
    tiles = with_tiles(pointed, (3, 2))
    found = [tiles[place] for place in range(len(tiles))]
    assert len(found) == 6 * 8
    assert sum(row["count"] for row in found) == sum(pointed["count"])
    for place, row in enumerate(found):
        frame, tile = pointed[place % 8], tile_boxes((64, 48), (3, 2))[place // 8]
        assert row["image"] == frame["image"].crop(tile)
        inside = [
            (point["x"] - tile[0], point["y"] - tile[1])
            for point in frame["points"]
            if tile[0] <= point["x"] < tile[2] and tile[1] <= point["y"] < tile[3]
        ]
        assert [(point["x"], point["y"]) for point in row["points"]] == inside
        assert row["count"] == len(inside)
        assert question_text(row["messages"]) == question_text(frame["messages"])
        assert row["messages"][1]["content"][0]["text"] == str(len(inside))
    assert len({row["frame"] for row in found}) == len(found)
    assert [row["count"] for row in tiles.select(range(8, 16))] == tiles["count"][8:16]


def test_frames_that_are_not_cut_stay_as_they_are(rows):
    assert with_tiles(rows, (1, 1)) is rows


def test_a_tile_is_cut_before_it_is_mirrored(cfg, pointed):
    kinds = ("flip",)
    train = cfg.train.model_copy(update={"augment": kinds})
    both = with_tiles(augmented_rows(pointed, train), (2, 1))
    straight, turned = both[3], both[11]
    plain, mirrored = (augmented_image(row, kinds) for row in (straight, turned))
    assert np.array_equal(np.array(plain)[:, ::-1], np.array(mirrored))
    assert plain == pointed[3]["image"].crop((0, 0, 32, 48))
    points = augmented_points(straight, kinds)
    assert augmented_points(turned, kinds) == [(32 - x, y) for x, y in points]


def test_a_batch_has_the_density_of_its_tiles(pointed, cutting):
    tiles = with_tiles(pointed, (2, 2))
    image_of = partial(augmented_image, kinds=("light",))
    batch = Collator(cutting, image_of=image_of, points_of=partial(augmented_points, kinds=()))(
        [tiles[place] for place in (3, 11, 27)]
    )
    assert batch["counts"].tolist() == [tiles[place]["count"] for place in (3, 11, 27)]
    torch.testing.assert_close(batch["density"].sum(dim=1), batch["counts"].float())


def test_an_adapter_of_tiles_is_trained_saved_and_loaded(tiled, cutting, pointed, tmp_path):
    few = pointed.select(range(4))
    trainer = trainer_of(tiled, cutting, few, tmp_path / "t", points=1.0)
    require_model(trainer, RequestedModel(tiled.backbone, tiled.image, tiled.adapter))
    assert len(trainer.train_dataset) == 4 * 4  # four frames, in four tiles
    people = np.mean(few["count"]) / 4 / 16  # a token of a tile
    assert float(trainer.point_head.bias.detach().exp().log1p()) == pytest.approx(people)
    tuned = fit(trainer)
    assert trainer.state.global_step == 16
    saved = np.load(tmp_path / "t" / "validation" / "16.npy")
    assert saved.shape == (2, 81)  # whole frames, up to twice the largest label of a frame
    made = recipe(tiled, temperature=tuned.temperature)
    (tmp_path / "a").mkdir()
    save_adapter(tuned.model, tuned.weights, cutting, made, tmp_path / "a")
    model, encoder, stored = load_adapter(tmp_path / "a")
    assert stored == made
    assert encoder.tiles == (2, 2)
    images, question = list(few["image"])[:2], question_text(few[0]["messages"])
    here, there = (
        CountPredictor(m.eval(), e, question, 80).predict(images, 4)
        for m, e in ((tuned.model, cutting), (model, encoder))
    )
    assert here.replies == there.replies
    np.testing.assert_allclose(here.probabilities, there.probabilities, atol=1e-5)
    np.testing.assert_allclose(here.probabilities, saved, atol=1e-5)


def test_tiles_without_a_border_are_of_one_size(tiled, pointed, tmp_path):
    image = tiled.image.model_copy(update={"drop_border": True, "tiles": (1, 2)})
    trainer = trainer_of(
        tiled, backbone_encoder(tiled.backbone, image), pointed, tmp_path, points=1.0
    )
    require_model(trainer, RequestedModel(tiled.backbone, image, tiled.adapter))
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert (batch["input_ids"] == trainer.encoder.processor.image_token_id).sum() == 8
    people = np.mean(pointed["count"]) / 2 / 8  # a token of a tile
    assert float(trainer.point_head.bias.detach().exp().log1p()) == pytest.approx(people)
    longest = trainer.data_collator([trainer.train_dataset[place] for place in range(16)])
    assert batch_shape(trainer.encoder, pointed).length == longest["input_ids"].shape[1]
    image = image.model_copy(update={"tiles": (3, 1)})
    with pytest.raises(
        UserError, match=r"tiles are 21x48 and 22x48; make all frames one size that"
    ):
        trainer_of(tiled, backbone_encoder(tiled.backbone, image), pointed, tmp_path)


def test_without_points_tiles_are_refused(tiled, cutting, rows, tmp_path):
    line = (
        r"^image.tiles: is \[2, 2\], but data/ has no points.csv, which says how many people each"
    )
    spec = TrainingSpec(rows, rows, tiled.adapter, tiled.train, tiled.seed, tmp_path)
    with pytest.raises(UserError, match=line):
        CountTrainer(load_backbone(tiled.backbone), cutting, spec)
