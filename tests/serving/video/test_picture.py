"""Frames are seen as a player shows them."""

import gc
from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from PIL import Image, ImageOps

from llava_dvc.errors import UserError
from llava_dvc.serving.video.picture import upright_image
from llava_dvc.serving.video.sampling import sample_video
from tests.serving.video.clips import RATE, SIZE, corners, moving, write_clip


def first_image(path):
    return next(image for _, image in sample_video(path, 1.0))


def assert_alike(image, expected, tolerance=12):
    assert image.size == expected.size
    difference = np.asarray(image, float) - np.asarray(expected, float)
    assert np.abs(difference).mean() < tolerance


@pytest.mark.parametrize("kind", ["mp4", "mov"])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_the_display_matrix_turns_and_mirrors(tmp_path, kind, degrees, mirrored):
    path = write_clip(
        tmp_path / f"clip.{kind}",
        [corners()] * 12,
        set_up=lambda stream: stream.set_display_rotation(degrees, hflip=mirrored),
    )
    expected = corners().rotate(degrees, expand=True)
    assert_alike(first_image(path), ImageOps.mirror(expected) if mirrored else expected)


@pytest.mark.parametrize(
    ("codec", "kind"), [("libx264", "mp4"), ("libx264", "mpegts"), ("libx264", "matroska"),
                        ("mjpeg", "avi"), ("mpeg4", "avi")],
)  # fmt: skip
@pytest.mark.parametrize(("aspect", "size"), [("2", (320, 120)), ("1/2", (160, 240)),
                                              ("12/11", (175, 120)), ("1", SIZE)])  # fmt: skip
def test_pixels_become_square(tmp_path, codec, kind, aspect, size):
    def set_up(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(aspect)

    path = write_clip(tmp_path / "clip", [corners()] * 12, codec, set_up, kind=kind)
    assert_alike(first_image(path), corners().resize(size))


def test_pixels_become_square_before_the_frame_is_turned(tmp_path):
    def set_up(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        stream.set_display_rotation(90)

    path = write_clip(tmp_path / "clip.mp4", [corners()] * 12, set_up=set_up)
    assert_alike(first_image(path), corners().resize((320, 120)).rotate(90, expand=True))


def test_an_absurd_aspect_ratio_is_an_error(tmp_path):
    def set_up(stream):
        stream.codec_context.sample_aspect_ratio = Fraction(20)

    path = write_clip(tmp_path / "clip.mp4", [corners()] * 12, set_up=set_up)
    with pytest.raises(
        UserError, match=r"clip\.mp4: its picture has the sample aspect ratio 20:1; correct"
    ):
        first_image(path)


def test_a_plain_frame_has_the_pixels_of_libav(tmp_path):
    path = write_clip(tmp_path / "clip.mp4", moving(30))
    with av.open(str(path)) as clip:
        expected = [frame.to_image() for frame in clip.decode(video=0)]
    seen = [image for _, image in sample_video(path, 1 / RATE)]
    assert len(seen) == 30
    assert all(a.tobytes() == b.tobytes() for a, b in zip(seen, expected, strict=True))


@pytest.mark.parametrize("top_first", [True, False])
def test_interlaced_frames_show_no_comb(tmp_path, top_first):
    """Each line is of one of two moments: a bar moves eight pixels between them."""
    fields = []
    for index in range(2 * 30):
        field = np.full((SIZE[1], SIZE[0], 3), 30, np.uint8)
        field[:, (8 * index) % 120 : (8 * index) % 120 + 30] = 220
        fields.append(field)
    images = []
    for first, second in zip(fields[::2], fields[1::2], strict=True):
        lines = (first, second) if top_first else (second, first)
        woven = np.empty_like(first)
        woven[0::2], woven[1::2] = lines[0][0::2], lines[1][1::2]
        images.append(Image.fromarray(woven))

    def set_up(stream):
        stream.options = {"x264-params": f"{'tff' if top_first else 'bff'}=1", "crf": "1"}

    path = write_clip(tmp_path / "clip.mp4", images, set_up=set_up)
    seen = [np.asarray(image, float)[..., 1] for _, image in sample_video(path, 0.04)]
    assert len(seen) == len(images)
    for image in seen[1:-1]:
        comb = np.abs(image[1:-1] - (image[:-2] + image[2:]) / 2).mean()
        assert comb < 3


def colour_clip(path, colour, matrix, full, codec="libx264"):
    """A clip of one colour in a YUV of its own, tagged as such."""
    red, blue = {1: (0.2126, 0.0722), 5: (0.299, 0.114)}[matrix]
    r, g, b = (part / 255 for part in colour)
    luma = red * r + (1 - red - blue) * g + blue * b
    planes = luma, (b - luma) / 2 / (1 - blue), (r - luma) / 2 / (1 - red)
    scale = [(255, 0), (255, 128), (255, 128)] if full else [(219, 16), (224, 128), (224, 128)]

    def frame():
        drawn = av.VideoFrame(*SIZE, "yuv420p")
        for plane, value, (factor, offset) in zip(drawn.planes, planes, scale, strict=True):
            plane.update(bytes([round(value * factor + offset)]) * plane.buffer_size)
        drawn.colorspace, drawn.color_range = matrix, 2 if full else 1
        return drawn

    def set_up(stream):
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1

    return write_clip(path, [frame() for _ in range(12)], codec, set_up)


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG"), (1, None)])
def test_hdr_is_said(tmp_path, transfer, name):
    def set_up(stream):
        stream.codec_context.color_trc = transfer

    path = write_clip(tmp_path / "clip.mp4", [corners()], set_up=set_up)
    notes = []
    assert len(list(sample_video(path, 1.0, notes))) == 1
    text = f"{path}: its colours are HDR ({name}) and look pale here. Convert it to SDR."
    assert notes == ([text] if name else [])


@pytest.mark.parametrize("matrix", [1, 5], ids=["BT.709", "BT.601"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("kind", ["mp4", "mkv", "ts"])
def test_colours_are_those_that_the_tags_say(tmp_path, matrix, full, kind):
    path = colour_clip(tmp_path / f"clip.{kind}", (200, 80, 40), matrix, full)
    mean = np.asarray(first_image(path), float).mean(axis=(0, 1))
    np.testing.assert_allclose(mean, (200, 80, 40), atol=4)


def test_a_picture_holds_no_frame(tmp_path):
    """Pictures of a camera come for days. libav's frames must go without a search for cycles."""
    path = write_clip(tmp_path / "clip.mp4", moving(3))
    gc.collect()
    gc.disable()
    try:
        with av.open(str(path)) as container:
            for found in container.decode(video=0):
                upright_image(found, Fraction(1))
        del found
        assert not [one for one in gc.get_objects() if type(one) is VideoFrame]
    finally:
        gc.enable()
