"""`train.augment: splice`: frames from parts of others, with the people of those parts."""

from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from llava_dvc.conversation import question_text
from llava_dvc.training.augment import augmented_image, augmented_points, augmented_rows
from llava_dvc.training.collator import Collator
from llava_dvc.training.splices import spliced
from llava_dvc.training.tile_rows import with_tiles
from tests.training.test_points import pointed, trainer_of

__all__ = ["pointed"]  # a fixture

COLOURS = [(40 * n, 255 - 30 * n, 20 * n) for n in range(6)]


@pytest.fixture(scope="session")
def plain(pointed):
    """Six frames of one colour each. Every pixel of a frame has a point."""
    points = [{"x": x + 0.5, "y": y + 0.5} for y in range(12) for x in range(16)]
    return [
        pointed[n] | {"image": Image.new("RGB", (16, 12), COLOURS[n]), "points": points}
        for n in range(6)
    ]


def splice(rows, place, copy, cameras=None):
    cameras = cameras or {rows[place]["camera"]: list(range(len(rows)))}
    return spliced(rows[place] | {"copy": copy}, rows, cameras)


def colours(image):
    return Counter(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))


@pytest.fixture
def rows_of(cfg):
    """All rows of an epoch."""

    def augmented(frames, *kinds, **changes):
        settings = {"augment": kinds, "min_steps": 1, **changes}
        return augmented_rows(frames, cfg.train.model_copy(update=settings))

    return augmented


def test_every_row_comes_as_it_is_and_spliced_thrice(pointed, rows_of):
    rows = rows_of(pointed, "splice")
    assert len(rows) == 4 * len(pointed)
    for place in range(8):
        row = rows[place]
        assert row["image"] == pointed[place]["image"]
        assert (row["frame"], row["count"]) == (pointed[place]["frame"], pointed[place]["count"])
    assert len({rows[place]["frame"] for place in range(len(rows))}) == len(rows)


def test_a_part_brings_its_people_and_its_pixels(plain):
    """Where the frame has a colour, it has the points of the frame of that colour."""
    several = 0
    for copy in range(1, 40):
        row = splice(plain, 0, copy)
        assert row["count"] == len(row["points"]) == 16 * 12  # each pixel is in one part
        spots = {(int(point["x"]), int(point["y"])) for point in row["points"]}
        assert len(spots) == 16 * 12
        assert row["image"].getpixel((0, 0)) == COLOURS[0]
        several += len(colours(row["image"])) > 2
        assert question_text(row["messages"]) == question_text(plain[0]["messages"])
        assert row["messages"][1]["content"][0]["text"] == str(row["count"])
    assert several > 5


def test_people_come_from_the_frame_that_gave_the_part(plain):
    empty = [row | {"points": [] if n else row["points"]} for n, row in enumerate(plain)]
    for copy in range(1, 20):
        row = splice(empty, 0, copy)
        seen = colours(row["image"])
        assert row["count"] == seen[COLOURS[0]]
        for point in row["points"]:
            assert row["image"].getpixel((int(point["x"]), int(point["y"]))) == COLOURS[0]


def test_a_splice_is_always_alike_and_the_next_one_otherwise(plain):
    first, again = (splice(plain, 1, 1)["image"] for _ in range(2))
    assert first == again
    others = [splice(plain, 1, copy)["image"] for copy in (2, 3)]
    assert len({image.tobytes() for image in [first, *others]}) > 1


def test_parts_come_from_the_same_camera_and_from_frames_of_the_same_size(plain):
    rows = [row | {"camera": "ab"[n // 3]} for n, row in enumerate(plain)]
    cameras = {"a": [0, 1, 2], "b": [3, 4, 5]}
    shown = [colours(splice(rows, 4, n, cameras=cameras)["image"]) for n in range(1, 20)]
    assert set().union(*shown) == set(COLOURS[3:])
    large = [
        row | {"image": row["image"].resize((32, 24))} if n else row for n, row in enumerate(plain)
    ]
    assert {tuple(colours(splice(large, 0, n)["image"])) for n in range(1, 20)} == {(COLOURS[0],)}


def test_splices_are_mirrored_and_cut_into_tiles(pointed, rows_of):
    rows, kinds = rows_of(pointed, "flip", "splice"), ("flip",)
    assert len(rows) == 32
    turned = rows[8 + 2]  # the first splice of the third frame
    image = np.asarray(augmented_image(turned, kinds))
    assert np.array_equal(image, np.asarray(turned["image"])[:, ::-1])
    assert sorted(64 - x for x, _ in augmented_points(turned, kinds)) == sorted(
        point["x"] for point in turned["points"]
    )
    assert augmented_image(rows[16 + 2], kinds) == rows[16 + 2]["image"]  # the second
    tiles = with_tiles(rows, (2, 1))
    halves = [tiles[10], tiles[32 + 10]]
    assert sum(half["count"] for half in halves) == turned["count"]
    assert halves[1]["image"] == turned["image"].crop((32, 0, 64, 48))


@pytest.mark.parametrize("kinds", [("flip", "splice"), ("splice",), ("flip",)])
def test_an_epoch_has_splices_if_there_are_points(cfg, encoder, pointed, rows, tmp_path, kinds):
    def trained_on(frames):
        found = trainer_of(cfg, encoder, frames, tmp_path, augment=kinds, min_steps=1)
        return [row["frame"] for row in found.train_dataset]

    once = rows["frame"][:]
    assert len(set(trained_on(pointed))) == (32 if "splice" in kinds else 8)
    assert trained_on(rows) == once * (4 if "flip" in kinds else 1)


@pytest.mark.parametrize(
    ("changes", "copies"),
    [
        ({"min_steps": 40}, 5),
        ({"min_steps": 41}, 6),
        ({"min_steps": 80, "epochs": 2}, 5),
        ({"min_steps": 20, "accumulation": 2}, 5),
        ({"min_steps": 10, "batch_size": 4}, 5),
    ],
)
def test_few_frames_are_spliced_more_often(rows_of, pointed, changes, copies):
    found = rows_of(pointed, "splice", **changes)
    assert len({row["frame"] for row in found}) == len(found) == copies * 8


def test_frames_without_splices_are_not_seen_more_often(rows_of, pointed, rows):
    assert rows_of(pointed, "light", min_steps=100) is pointed
    assert rows_of(rows, "splice", min_steps=100) is rows
    assert len(rows_of(pointed, "flip", min_steps=100)) == 32


def test_the_copies_of_a_frame_differ_in_light(rows_of, pointed):
    rows = rows_of(pointed, "flip", "light")
    seen = [augmented_image(rows[place], ("light",)).tobytes() for place in (0, 8, 16, 24, 0)]
    assert len(set(seen)) == 4


def test_a_batch_of_splices_has_the_density_of_its_people(pointed, encoder, rows_of):
    rows = rows_of(pointed, "splice")
    points_of = partial(augmented_points, kinds=())
    batch = Collator(encoder, points_of=points_of)([rows[n] for n in (9, 18, 27)])
    assert batch["counts"].tolist() == [rows[n]["count"] for n in (9, 18, 27)]
    torch.testing.assert_close(batch["density"].sum(dim=1), batch["counts"].float())
