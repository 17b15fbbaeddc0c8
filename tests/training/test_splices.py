"""`train.augment: splice`: frames from parts of others, with the people of those parts."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from llava_dvc.conversation import question_text
from llava_dvc.training.augment import augmented_image, augmented_points, with_mirror_images
from llava_dvc.training.collator import Collator
from llava_dvc.training.splices import SPLICES, spliced, with_splices
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


def splice(rows, place, copy, mirror=False, cameras=None):
    cameras = cameras or {rows[place]["camera"]: list(range(len(rows)))}
    return spliced(rows[place] | {"splice": copy, "mirror": mirror}, rows, cameras)


def colours(image):
    return Counter(map(tuple, np.asarray(image).reshape(-1, 3).tolist()))


def test_every_row_comes_as_it_is_and_spliced_thrice(pointed):
    rows = with_splices(pointed)
    assert len(rows) == (1 + SPLICES) * len(pointed)
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
    others = [splice(plain, 1, copy, mirror) for copy, mirror in ((1, True), (2, False))]
    assert len({image.tobytes() for image in [first, *(o["image"] for o in others)]}) > 1


def test_parts_come_from_the_same_camera_and_from_frames_of_the_same_size(plain):
    rows = [row | {"camera": "ab"[n // 3]} for n, row in enumerate(plain)]
    cameras = {"a": [0, 1, 2], "b": [3, 4, 5]}
    shown = [colours(splice(rows, 4, n, cameras=cameras)["image"]) for n in range(1, 20)]
    assert set().union(*shown) == set(COLOURS[3:])
    large = [
        row | {"image": row["image"].resize((32, 24))} if n else row for n, row in enumerate(plain)
    ]
    assert {tuple(colours(splice(large, 0, n)["image"])) for n in range(1, 20)} == {(COLOURS[0],)}


def test_splices_are_mirrored_and_cut_into_tiles(pointed):
    both = with_splices(with_mirror_images(pointed))
    assert len(both) == 64
    turned = both[16 + 8 + 2]  # the first splice of the third frame's mirror image
    assert turned["mirror"]
    image = np.asarray(augmented_image(turned, []))
    assert np.array_equal(image, np.asarray(turned["image"])[:, ::-1])
    assert sorted(64 - x for x, _ in augmented_points(turned)) == sorted(
        point["x"] for point in turned["points"]
    )
    tiles = with_tiles(both, (2, 1))
    halves = [tiles[26], tiles[64 + 26]]
    assert sum(half["count"] for half in halves) == turned["count"]
    assert halves[1]["image"] == turned["image"].crop((32, 0, 64, 48))


@pytest.mark.parametrize("kinds", [("flip", "splice"), ("splice",), ("flip",)])
def test_training_sees_splices_if_there_are_points(cfg, encoder, pointed, rows, tmp_path, kinds):
    sides = 1 + ("flip" in kinds)
    copies = 1 + SPLICES * ("splice" in kinds)
    trainer = trainer_of(cfg, encoder, pointed, tmp_path, augment=kinds, points=1.0)
    assert len(trainer.train_dataset) == 8 * sides * copies
    if kinds == ("splice",):
        assert len(trainer_of(cfg, encoder, rows, tmp_path, augment=kinds).train_dataset) == 8


def test_a_batch_of_splices_has_the_density_of_its_people(pointed, encoder):
    rows = with_splices(pointed)
    batch = Collator(encoder, points_of=augmented_points)([rows[n] for n in (9, 18, 27)])
    assert batch["counts"].tolist() == [rows[n]["count"] for n in (9, 18, 27)]
    torch.testing.assert_close(batch["density"].sum(dim=1), batch["counts"].float())
