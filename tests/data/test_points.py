import pytest
from PIL import Image

from llava_dvc.data.data_errors import DataError, skippable_problems
from llava_dvc.data.frames import read_frames, scan_data
from llava_dvc.data.imports.mall import default_messages
from llava_dvc.data.prepare import build_dataset
from llava_dvc.data.split import FrameSplit


@pytest.fixture
def data(tmp_path):
    """Three frames of 32x24 pixels with two, no and one person."""
    folder = tmp_path / "data"
    (folder / "frames").mkdir(parents=True)
    for number in (1, 2, 3):
        Image.new("L", (32, 24), 40 * number).save(folder / "frames" / f"seq_{number:06d}.jpg")
    (folder / "labels.csv").write_text("id,count\n1,2\n2,0\n3,1\n")
    (folder / "messages.txt").write_text(default_messages(), encoding="utf-8")
    return folder


def with_points(data, *rows, header="id,x,y"):
    (data / "points.csv").write_text("".join(f"{row}\n" for row in (header, *rows)))
    return data


def problem(data, *rows, header="id,x,y") -> str:
    with pytest.raises(DataError) as caught:
        read_frames(with_points(data, *rows, header=header), exclude=())
    [only] = caught.value.problems
    return str(only)


GOOD = ("1,3.5,4", "1,32,24", "3,0,0")


def test_every_frame_has_its_points(data):
    frames = read_frames(with_points(data, *GOOD), exclude=())
    assert [frame.points for frame in frames] == [[(3.5, 4.0), (32.0, 24.0)], [], [(0.0, 0.0)]]


def test_without_the_file_points_are_unknown(data):
    assert [frame.points for frame in read_frames(data, exclude=())] == [None] * 3


def test_names_and_other_delimiters_are_read(data):
    rows = ("3.5;4;seq_000001.jpg", "32;24;seq_000001.jpg", ";;", "0;0;seq_000003.jpg")
    frames = read_frames(with_points(data, *rows, header="X;Y;Frame"), exclude=())
    assert [len(frame.points) for frame in frames] == [2, 0, 1]


def test_another_number_of_points_than_the_count_is_a_contradiction(data):
    text = problem(data, "1,3,4", "3,0,0")
    assert "seq_000001.jpg has 1 point, but its count on line 2 of labels.csv is 2. Write" in text
    assert "seq_000002.jpg has 1 point," in problem(data, *GOOD, "2,1,1")
    assert "seq_000003.jpg has 0 points," in problem(data, *GOOD[:2])


def test_a_contradiction_can_be_skipped_and_excluded(data):
    with_points(data, "1,3,4", "3,0,0")
    frames, _, problems = scan_data(data, exclude=())
    assert [frame.name for frame in frames] == ["seq_000002.jpg", "seq_000003.jpg"]
    assert skippable_problems(problems, "skip", max_skipped=1) == problems
    assert len(read_frames(data, exclude=["seq_000001.jpg"])) == 2


def test_rows_of_an_excluded_frame_are_not_read(data):
    with_points(data, *GOOD[:2], "3,no,number")
    assert len(read_frames(data, exclude=["seq_000003.jpg"])) == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("3,32.5,0", "points.csv:4: x is 32.5, but seq_000003.jpg has 32 pixels in this direction"),
        ("3,0,-1", "points.csv:4: y is -1, but seq_000003.jpg has 24 pixels in this direction"),
        ("3,nan,0", "points.csv:4: x is 'nan', expected a number of pixels such as 126.8. Correct"),
        ("3,0,", "points.csv:4: y is '', expected a number of pixels"),
        ("3,1e999,0", "points.csv:4: x is '1e999', expected a number of pixels"),
    ],
)
def test_a_point_is_two_numbers_inside_the_frame(data, row, reason):
    assert reason in problem(data, *GOOD[:2], row)


def test_a_short_row_is_named_beside_what_it_leaves_open(data):
    with pytest.raises(DataError) as caught:
        read_frames(with_points(data, *GOOD[:2], "3,1"), exclude=())
    short, contradiction = map(str, caught.value.problems)
    assert "points.csv:4: '3,1' has 2 values, expected 3 (id,x,y). Correct the line." in short
    assert "seq_000003.jpg has 0 points" in contradiction


def test_a_turned_frame_is_measured_upright(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (32, 24), 9).save(data / "frames" / "seq_000001.jpg", exif=exif)
    assert len(read_frames(with_points(data, "1,24,32", "1,0,0", "3,0,0"), exclude=())) == 3
    assert "x is 25, but seq_000001.jpg has 24 pixels" in problem(data, "1,25,32", "1,0,0", "3,0,0")


def test_points_of_an_unlabelled_frame_are_refused(data):
    text = problem(data, *GOOD, "9,1,1")
    assert "points.csv:5: frame seq_000009.jpg is not in labels.csv. Add its count there" in text


def test_a_table_that_cannot_be_read_is_one_problem(data):
    text = problem(data, *GOOD, header="id,left,top")
    assert "points.csv:1: header is 'id,left,top', expected `id,x,y` or `frame,x,y`" in text


def test_a_link_out_of_data_is_refused(data, tmp_path):
    (tmp_path / "points.csv").write_text("id,x,y\n")
    (data / "points.csv").symlink_to(tmp_path / "points.csv")
    with pytest.raises(DataError, match=r"is a link to .*, which is outside"):
        read_frames(data, exclude=())


def test_the_rows_of_prepared_have_them(data):
    split = FrameSplit(train=[0], val=[1], eval=[2], left_out=[])
    frames, conversations, _ = scan_data(with_points(data, *GOOD), exclude=())
    rows = build_dataset(frames, conversations, split, seed=1)
    assert rows["train"][0]["points"] == [{"x": 3.5, "y": 4.0}, {"x": 32.0, "y": 24.0}]
    assert rows["val"][0]["points"] == []
    (data / "points.csv").unlink()
    frames, conversations, _ = scan_data(data, exclude=())
    assert build_dataset(frames, conversations, split, seed=1)["val"][0]["points"] is None
