"""The file of images is as datumaro 1.13 exports it. The file of tracks has the elements and the
order of attributes of CVAT's own exporter (cvat/apps/dataset_manager/formats/cvat.py).
"""

import pytest

from tests.data.imports.formats.conftest import picture

META = """
  <version>1.1</version>
  <meta>
    <task>
      <size>5</size>
      <mode>MODE</mode>
      <start_frame>0</start_frame>
      <stop_frame>4</stop_frame>
      <frame_filter></frame_filter>
      <labels>
        <label><name>person</name><attributes></attributes></label>
        <label><name>car</name><attributes></attributes></label>
        <label><name>nose</name><parent>person</parent></label>
      </labels>
      <original_size><width>64</width><height>48</height></original_size>
    </task>
  </meta>"""
IMAGES = f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>{META}
  <image id="0" name="a1.jpg" width="64" height="48">
    <box label="person" occluded="0" xtl="10.00" ytl="4.00" xbr="18.00" ybr="24.00" z_order="0">
      <attribute name="age">adult</attribute>
    </box>
    <box label="person" occluded="1" xtl="30.00" ytl="8.00" xbr="40.00" ybr="38.00" z_order="0">
    </box>
    <box label="car" occluded="0" xtl="1.00" ytl="1.00" xbr="6.00" ybr="6.00" z_order="0">
    </box>
  </image>
</annotations>
"""
RESULT = {"a1.jpg": (2, [(14, 6), (35, 11)])}


def box(frame, left, outside=0, keyframe=1):
    return (
        f'<box frame="{frame}" keyframe="{keyframe}" outside="{outside}" occluded="0" '
        f'xtl="{left:.2f}" ytl="10.00" xbr="{left + 10:.2f}" ybr="30.00" z_order="0"></box>'
    )


def tracks(*each, label="person"):
    found = "".join(
        f'<track id="{i}" label="{label}" source="manual">{"".join(boxes)}</track>'
        for i, boxes in enumerate(each)
    )
    return f"<annotations>{META}{found}</annotations>"


LISTED = [
    box(0, 0),
    box(1, 4, keyframe=0),
    box(2, 8, outside=1),
    box(4, 20),
]
"""As CVAT lists a track: frame 3 is not there, because the object is still outside."""


@pytest.fixture
def write(source):
    def write_xml(text, *names):
        for name in names or ["a1.jpg"]:
            picture(source / "images" / name)
        (source / "annotations.xml").write_text(text, encoding="utf-8")

    return write_xml


@pytest.fixture
def video(write):
    """Writes the tracks with the pictures of frames 0 to 4."""
    return lambda text: write(text, *(f"frame_{number:06d}.png" for number in range(5)))


def found(result):
    """The left side of the box of each person, by frame."""
    return [
        [x - 5 for x, y in result[name][1] if y == 12] for name in sorted(result) if "frame" in name
    ]


# --- images -------------------------------------------------------------------------------------


def test_boxes_arrive(write, load):
    write(IMAGES)
    assert load() == RESULT
    assert load.lines[1] == "Counted is person. Not counted: car.\n"


SHAPES = {
    '<points label="person" points="1.00,2.00;30.50,40.00"/>': [(1, 2), (30.5, 40)],
    '<polygon label="person" points="10,4;18,8;14,24"/>': [(14, 6)],
    '<ellipse label="person" cx="14" cy="14" rx="4" ry="10"/>': [(14, 6)],
    '<mask label="person" rle="3, 2" left="10" top="4" width="8" height="20"/>': [(14, 6)],
    '<box label="person" xtl="4" ytl="10" xbr="24" ybr="18" rotation="90.00"/>': [(14, 6)],
    '<skeleton label="person"><points label="nose" outside="0" points="10,4"/>'
    '<points label="hand" outside="0" points="18,24"/>'
    '<points label="foot" outside="1" points="0,48"/></skeleton>': [(14, 6)],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_other_shapes_are_points_or_boxes(write, load, shape):
    head = IMAGES.partition("<box")[0]
    write(head + shape + "</image></annotations>")
    assert load()["a1.jpg"] == (len(SHAPES[shape]), SHAPES[shape])


def test_an_image_without_shapes_is_asked_for(write, load, refuse):
    more = '<image id="1" name="a2.jpg" width="64" height="48"></image>'
    write(IMAGES.replace("</annotations>", more + "</annotations>"), "a1.jpg", "a2.jpg")
    assert "1 picture has no annotation, such as a2.jpg. Add --empty zero" in refuse()
    assert load(empty="zero") == RESULT | {"a2.jpg": (0, [])}


# --- tracks -------------------------------------------------------------------------------------


def test_a_track_is_absent_while_it_is_outside(video, load):
    video(tracks(LISTED))
    assert found(load(empty="zero")) == [[0], [4], [], [], [20]]


def test_keyframes_are_joined_by_a_line_and_the_last_one_stays(video, load):
    video(tracks([box(0, 0), box(2, 20)]))
    assert found(load()) == [[0], [10], [20], [20], [20]]


def test_an_object_stays_in_its_place_until_it_is_outside(video, load):
    video(tracks([box(0, 6), box(3, 30, outside=1)]))
    assert found(load(empty="zero")) == [[6], [6], [6], [], []]


def test_single_shapes_of_a_video_do_not_go_on(video, load):
    """CVAT closes them with an `outside` shape, but not in the last frame but one."""
    video(tracks([box(0, 0), box(1, 0, outside=1)], [box(3, 5)], [box(4, 9)]))
    assert found(load(empty="zero")) == [[0], [], [], [5], [9]]


def test_in_a_file_that_lists_every_frame_nothing_goes_on(video, load):
    video(tracks(LISTED, [box(1, 30)]))
    assert found(load(empty="zero")) == [[0], [4, 30], [], [], [20]]


def test_a_step_between_frames_is_kept(write, load, refuse):
    single = [box(2, 7)]  # in the last frame but one
    text = tracks([box(0, 0), box(4, 20)], single)
    text = text.replace("<frame_filter>", "<frame_filter>step=2")
    write(text, "frame_000000.png", "frame_000002.png", "frame_000004.png")
    assert found(load()) == [[0], [10, 7], [20]]


def test_a_picture_between_the_steps_is_refused(write, refuse):
    text = tracks([box(0, 0)]).replace("<frame_filter>", "<frame_filter>step=2")
    write(text, "frame_000001.png")
    assert "frame_000001.png is not a frame of the task (0 to 4, step 2)" in refuse()


def test_frames_without_picture_are_said(write, load):
    write(tracks(LISTED), "frame_000000.png", "frame_000001.png")
    assert found(load()) == [[0], [4]]
    assert "Frames with people but without a picture: 1.\n" in load.lines


BAD_IMAGES = {
    "cut off": (IMAGES[:-40], "annotations.xml: is not valid XML"),
    "entities": ("<!DOCTYPE a []>" + IMAGES.partition("?>")[2], "has a document type"),
    "other XML": ("<annotation/>", "begins with <annotation>, expected <annotations>"),
    "no name": (IMAGES.replace(' name="a1.jpg"', ""), "image 0: name is 'None', expected a name"),
    "no width": (IMAGES.replace(' width="64"', ""), "image 0: width is 'None', expected a number"),
    "missing": (IMAGES.replace("a1.jpg", "b1.jpg"), "picture b1.jpg is not among the 1 pictures"),
    "no side": (IMAGES.replace('xtl="10.00"', ""), "image 0: xtl is 'None', expected a number"),
    "words": (IMAGES.replace('"10.00"', '"left"'), "image 0: xtl is 'left', expected a number"),
    "turned": (IMAGES.replace('"18.00"', '"8.00"'), "has the corners (10, 4) and (8, 24), and no"),
    "no label": (IMAGES.replace('label="car"', ""), "image 0: label is 'None', expected a name"),
    "line": (IMAGES.replace("box", "polyline"), "a <polyline> of 'person' cannot be counted"),
    "size": (IMAGES.replace('width="64"', 'width="640"'), "for 640x48 pixels, but the picture has"),
    "rotation": (IMAGES.replace('xtl="10.00"', 'xtl="10" rotation="x"'), "rotation is 'x', expec"),
    "no image": (f"<annotations>{META}</annotations>", "no frame is left"),
    "category": (IMAGES.replace("person", "rider"), "has the categories car, rider. Say which"),
}
BAD_TRACKS = {
    "no frame": (tracks(["<box outside='0'/>"]), "track 0: frame is 'None', expected a number"),
    "frame": (tracks([box(-1, 0)]), "track 0: frame is '-1', expected a whole number from 0"),
    "beyond": (tracks([box(5, 0)]), "frame 5 is not a frame of the task (0 to 4, step 1)"),
    "twice": (tracks([box(1, 0), box(1, 2)]), "track 0: frame 1 is there twice"),
    "both": (tracks(LISTED).replace("<track", "<image/><track", 1), "has images and tracks"),
    "tasks": (tracks(LISTED).replace("<meta>", "<meta><task/>"), "has several tasks. Export and"),
    "size": (tracks(LISTED).replace("<width>64", "<width>96"), "for 96x48 pixels, but the pictu"),
    "pictures": (
        tracks([box(0, 1)]).replace("<stop_frame>4", "<stop_frame>3"),
        "picture frame_000004.png is not a frame of the task (0 to 3, step 1). CVAT counts from 0",
    ),
    "equal": (tracks(LISTED, LISTED), "two equal marks are at"),
}


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_bad_images_are_one_line_and_nothing_is_written(write, refuse, case):
    text, expected = BAD_IMAGES[case]
    write(text)
    text = refuse(format="cvat")
    assert expected in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("case", BAD_TRACKS)
def test_bad_tracks_are_refused_and_nothing_is_written(video, refuse, case):
    text, expected = BAD_TRACKS[case]
    video(text)
    assert expected in refuse(format="cvat", empty="zero")


@pytest.mark.parametrize(
    ("name", "expected"), [("cover.png", "has no frame number"), ("b_0001.png", "one frame number")]
)
def test_pictures_without_one_number_each_are_refused(video, refuse, source, name, expected):
    video(tracks(LISTED))
    picture(source / "images" / name)
    assert expected in refuse()
