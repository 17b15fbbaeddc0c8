"""An adapter as a Python object."""

import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from llava_dvc.data.images import read_image
from llava_dvc.errors import UserError
from llava_dvc.model.calibration import tempered
from llava_dvc.model.counting import quantile
from llava_dvc.model.tiles import convolve
from llava_dvc.recipe import Recipe, Zones
from llava_dvc.serving.adapter_source import find_adapter
from llava_dvc.serving.counter import Counter
from llava_dvc.training.scenes import KnownScenes, describe_scenes
from tests.conftest import frame


@pytest.fixture(scope="module")
def counter(adapter_folder) -> Counter:
    return Counter.from_pretrained(adapter_folder)


@pytest.fixture(scope="module")
def counter_with(adapter_folder, tmp_path_factory):
    """Makes a counter of the same weights, with changes to the recipe's `image`."""

    def make(**changes) -> Counter:
        folder = tmp_path_factory.mktemp("changed")
        for file in adapter_folder.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        recipe = Recipe.read(folder)
        image = recipe.image.model_copy(update=changes)
        recipe.model_copy(update={"image": image}).write(folder)
        return Counter.from_pretrained(folder)

    return make


@pytest.fixture(scope="module")
def bordered(counter_with) -> Counter:
    """Without the border's tokens."""
    return counter_with(drop_border=True)


def test_the_package_alone_loads_no_torch():
    code = "import sys, llava_dvc; assert 'torch' not in sys.modules; print(llava_dvc.Counter)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "llava_dvc.serving.counter.Counter" in done.stdout


def test_a_count_is_what_evaluation_reads(counter):
    frames = [frame(seed) for seed in range(5)]
    answers = counter.predictor.predict(frames, 8)
    mass = tempered(answers.probabilities, 1.5)
    found = counter.count(frames)
    assert [one.count for one in found] == quantile(mass, 0.5).tolist()
    assert [one.low for one in found] == quantile(mass, 0.1).tolist()
    assert [one.high for one in found] == quantile(mass, 0.9).tolist()
    assert [one.reply for one in found] == answers.replies
    np.testing.assert_allclose([one.probabilities for one in found], mass)
    np.testing.assert_allclose([one.expected for one in found], mass @ np.arange(61))


def test_tiles_are_counted_together(counter, counter_with):
    frames = [frame(2), frame(3, (80, 30))]
    halves = [
        image.crop((0, top, image.width, top + image.height // 2))
        for image in frames
        for top in (0, image.height // 2)
    ]
    each = counter.predictor.predict(halves, 8).probabilities.reshape(2, 2, -1)
    mass = tempered(convolve(each), 1.5)
    found = counter_with(tiles=(1, 2)).count(frames)
    np.testing.assert_allclose([one.probabilities for one in found], mass, rtol=1e-5)


@pytest.mark.parametrize("image", [{}, {"tiles": (1, 2)}, {"drop_border": True}])
def test_frames_that_were_encoded_ahead_count_the_same(counter_with, image):
    """Frames of different sizes have different borders."""
    counter = counter_with(**image)
    frames = [frame(seed, size) for seed in range(3) for size in ((64, 48), (80, 30))]
    encoded = [counter.encode(image, None) for image in frames]
    assert counter.count_encoded(encoded) == counter.count(frames)
    assert counter.count_encoded([]) == []


def test_an_adapter_counts_in_its_zone(counter, zoned_folder):
    zoned = Counter.from_pretrained(zoned_folder)
    frames = [frame(seed) for seed in range(4)]
    tills, door = zoned.find_zone(), zoned.find_zone("door", camera="hall")
    painted = counter.count([tills.paint(one) for one in frames])
    assert painted != counter.count(frames)
    assert zoned.count(frames) == zoned.count(frames, "tills", camera="hall") == painted
    assert zoned.count_in(frames, None) == counter.count(frames)
    other = counter.count([door.paint(one) for one in frames])
    assert zoned.count(frames, "door", camera="hall") == other
    zoned.warm_up()  # its grey frames are no frames of the camera


def test_a_zone_that_cannot_be_counted_is_one_line(counter, zoned_folder):
    zoned = Counter.from_pretrained(zoned_folder)
    for wrong, line in (
        ({"zone": "roof"}, r"zone roof: the adapter does not know it\. Choose one of door, tills"),
        ({"zone": "door"}, r"zone door: has no outline for every camera, only for hall\."),
    ):
        with pytest.raises(UserError, match=line):
            zoned.count([frame(0)], **wrong)
    with pytest.raises(UserError, match=r"zone tills: has a corner at 30, 48, but the frame"):
        zoned.count([frame(0, (48, 36))])
    with pytest.raises(UserError, match=r"zone tills: the adapter knows no zone\."):
        counter.count([frame(0)], zone="tills")


def test_the_distance_is_of_what_the_training_zone_leaves(adapter_folder):
    """Outside of the zone a frame may differ; without an outline nothing is known."""
    zoned = Counter.from_pretrained(adapter_folder)
    assert zoned.distance(frame(1)) is None
    left = ((0, 0), (32, 0), (32, 48), (0, 48))
    zones = Zones(name="tills", polygons={"tills": {"hall": left}})
    zoned.recipe = zoned.recipe.model_copy(update={"zones": zones})
    painted = [zoned.find_zone(camera="hall").paint(frame(seed)) for seed in range(20)]
    zoned.scenes = KnownScenes(describe_scenes([None] * 20, painted))
    other = frame(30)
    other.paste((90, 90, 90), (33, 0, 64, 48))
    assert zoned.distance(other, "hall") == zoned.distance(frame(30), "hall") < 1
    assert zoned.distance(other) is None
    assert zoned.distance(Image.new("RGB", (16, 12)), "hall") is None


def test_most_likely_counts_come_first(counter):
    (found,) = counter.count([frame(3)])
    likely = found.most_likely(4)
    assert [share for _, share in likely] == sorted(found.probabilities, reverse=True)[:4]
    assert all(found.probabilities[count] == share for count, share in likely)
    assert found.summary()["most_likely"][0]["count"] == likely[0][0]


def test_paths_and_pictures_count_alike(counter, tmp_path):
    path = tmp_path / "a.png"
    frame(4).save(path)
    assert counter.count([path, str(path), frame(4)]) == counter.count([frame(4)] * 3)


def test_nothing_is_counted_as_nothing(counter):
    assert counter.count([]) == []


def test_sizes_may_differ_where_the_border_takes_no_tokens(bordered):
    frames = [frame(1), frame(2, (48, 64)), frame(3), frame(4, (48, 64))]
    singly = [bordered.count([one])[0] for one in frames]
    together = bordered.count(frames)
    for one, other in zip(together, singly, strict=True):
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-5)


def test_a_file_is_read_as_the_pipeline_reads_it(counter, tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    frame(1).save(path, exif=exif)
    assert counter.count([path]) == counter.count([read_image(path)])
    assert read_image(path).size == (48, 64)


def test_what_is_no_picture_is_named(counter, tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"a\.jpg: is not in a known image format"):
        counter.count([path])


def test_champion_is_the_registrys(monkeypatch, tmp_path):
    registry = types.ModuleType("llava_dvc.tracking.registry")
    registry.champion_folder = lambda: tmp_path
    monkeypatch.setitem(sys.modules, "llava_dvc.tracking.registry", registry)
    monkeypatch.chdir(tmp_path)
    assert find_adapter("champion") == tmp_path


@pytest.fixture
def hub_cache(monkeypatch, tmp_path):
    """What an earlier download of `someone/counts` left, and no network."""
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--counts"
    for revision, commit in {"main": "a" * 40, "v1": "b" * 40}.items():
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "recipe.json").write_text(revision)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("name", "revision"), [("someone/counts", "main"), ("someone/counts@v1", "v1")]
)
def test_a_hub_id_is_downloaded(hub_cache, name, revision):
    assert (find_adapter(name) / "recipe.json").read_text() == revision


@pytest.mark.parametrize("name", ["someone/else", "someone/counts@v2", "some one/else"])
def test_what_is_nowhere_is_one_line(hub_cache, name):
    with pytest.raises(
        UserError, match=rf"^{name}: is not a folder, and cannot be downloaded from the Hub"
    ):
        find_adapter(name)


def test_folders_are_not_looked_for_on_the_hub(hub_cache, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "mine").mkdir(parents=True)
    for name in ("someone/mine", "models/adapter", "./someone/else", "published"):
        assert find_adapter(name) == Path(name)
