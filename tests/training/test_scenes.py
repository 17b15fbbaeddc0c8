"""How far a picture is from the training frames. The values are worked out by hand."""

import base64

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from llava_dvc.recipe import SCENE_SIZE
from llava_dvc.training import scenes
from llava_dvc.training.scenes import (
    KnownScenes,
    describe_scenes,
    distance_limit,
    edge_map,
    map_distance,
    mean_and_spread,
)

SIZE = 128, 96


def room(seed, people, size=SIZE):
    """The room `seed` with boxes that stand still, and people elsewhere in every frame."""
    image = Image.new("RGB", size, (150, 150, 150))
    draw = ImageDraw.Draw(image)
    random = np.random.default_rng(seed)
    for x, y, grey in random.integers(0, (size[0], size[1], 255), (12, 3)):
        draw.rectangle((x, y, x + size[0] // 5, y + size[1] // 6), fill=(int(grey),) * 3)
    random = np.random.default_rng([seed, people])
    for x, y in random.integers(0, size, (people % 5, 2)):
        draw.ellipse((x, y, x + size[0] // 16, y + size[1] // 6), fill=(90, 40, 30))
    noise = random.normal(0, 3, (*size[::-1], 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def hall():
    return describe_scenes([None] * 30, [room(1, people) for people in range(30)])


def test_the_map_has_the_root_of_the_slope_of_the_grey_levels():
    """A step of 100 between two columns: half of it in each of them, 13 * sqrt(50) = 91.92."""
    image = Image.new("RGB", SCENE_SIZE, (100, 100, 100))
    image.paste((200, 200, 200), (32, 0, *SCENE_SIZE))
    edges = edge_map(image).reshape(SCENE_SIZE[::-1])
    assert edges[:, [31, 32]] == pytest.approx(91.92, abs=0.01)
    assert np.delete(edges, [31, 32], axis=1).max() == 0


def test_the_steepest_edge_fits_into_eight_bits():
    white = Image.new("L", SCENE_SIZE, 255)
    white.putpixel((0, 0), 0)
    assert edge_map(white).max() == pytest.approx(246.9, abs=0.1)  # 13 * sqrt(255 * sqrt(2))


def test_mean_spread_and_distance():
    """The mean of all is 100: 2 is added to the spreads 10, 0 and 0."""
    mean, spread = mean_and_spread(np.array([[90.0, 90, 110], [110.0, 90, 110]]))
    assert mean.tolist() == [100, 90, 110]
    assert spread.tolist() == [12, 2, 2]
    assert mean_and_spread(np.zeros((2, 1)))[1].tolist() == [1]
    assert map_distance(np.array([76.0, 92, 199]), mean, spread) == pytest.approx((2 + 1 + 4) / 3)


def test_the_limit_is_students_t_of_the_logarithms():
    """Of 1 and e: mean 0.5, deviation 0.7071, and t(0.999, 1) = 318.31 is 275.66 wide."""
    assert np.log(distance_limit([1.0, np.e])) == pytest.approx(0.5 + 275.66, abs=0.01)
    assert distance_limit([0.0] * 9) == pytest.approx(scenes.LEAST_DISTANCE)


def test_ordinary_frames_are_near_and_another_view_is_far(hall):
    known = KnownScenes(hall)
    near = [known.distance(room(1, people)) for people in range(30, 60)]
    frame = room(1, 77)
    far = [
        room(2, 3),
        Image.fromarray(np.roll(np.asarray(frame), SIZE[0] // 10, axis=1)),
        frame.rotate(5, fillcolor=(150, 150, 150)),
        frame.filter(ImageFilter.GaussianBlur(4)),
        frame.point(lambda level: level // 5),
    ]
    assert max(near) < 1 < min(map(known.distance, far))


def test_the_limit_is_of_frames_that_are_held_out(hall, monkeypatch):
    """A fifth at a time, from the mean and the spread of the others."""
    maps = np.stack([edge_map(room(1, people)) for people in range(30)])
    rest = mean_and_spread(maps[6:])
    first = [map_distance(edges, *rest) for edges in maps[:6]]
    kept = []
    monkeypatch.setattr(scenes, "distance_limit", lambda all_of_them: kept.extend(all_of_them) or 2)
    (scene,) = describe_scenes([None] * 30, [room(1, people) for people in range(30)])
    assert len(kept) == 30
    assert kept[:6] == first
    own = KnownScenes(hall).distance(room(1, 40))
    assert KnownScenes([scene]).distance(room(1, 40)) == pytest.approx(own * hall[0].limit / 2)


def test_size_and_shape_of_the_picture_do_not_matter(hall):
    large = room(1, 77).resize((640, 480))
    assert KnownScenes(hall).distance(large) < 1


def test_every_camera_has_its_scene_and_the_nearest_counts():
    cameras = ["hall", "door"] * 12
    images = [room(1 if name == "hall" else 2, i) for i, name in enumerate(cameras)]
    found = describe_scenes(cameras, images)
    assert [one.camera for one in found] == ["hall", "door"]
    assert found[1:] == describe_scenes(["door"] * 12, images[1::2])
    known = KnownScenes(found)
    assert max(known.distance(room(seed, 50)) for seed in (1, 2)) < 1 < known.distance(room(3, 50))
    assert known.distance(room(2, 50)) == KnownScenes(found[1:]).distance(room(2, 50))


def test_too_few_frames_of_a_camera_are_not_described():
    images = [room(1, people) for people in range(29)]
    assert describe_scenes(["hall"] * 20 + ["door"] * 9, images) is None
    assert describe_scenes(["hall"] * 19 + ["door"] * 10, images) is not None


def test_of_many_frames_some_are_read(monkeypatch):
    monkeypatch.setattr(scenes, "MOST", 10)
    read = []

    class Frames(list):
        def __getitem__(self, place):
            read.append(place)
            return super().__getitem__(place)

    assert describe_scenes([None] * 28, Frames(room(1, i) for i in range(28))) is not None
    assert read == list(range(0, 28, 3))


def test_a_scene_has_three_thousand_bytes(hall):
    assert len(base64.b64decode(hall[0].mean)) == len(base64.b64decode(hall[0].spread)) == 3072
