"""The tables are as pandas and Excel write them; `pandas.DataFrame.to_csv` writes one here."""

import pandas
import pytest

from llava_dvc.data.imports.formats.tables import parse_columns
from llava_dvc.errors import UserError
from tests.data.imports.formats.conftest import picture

COUNTS = {"frame": "file", "count": "people"}
POINTS = {"frame": "file", "x": "px", "y": "py"}


@pytest.fixture
def write(source):
    for name in ("a1.jpg", "a2.jpg"):
        picture(source / "pics" / name)

    def write_table(text):
        path = source / "table.csv"
        path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
        return path

    return write_table


def test_the_header_is_shown_and_asked_for(write, refuse):
    write("File,People,Note\na1.jpg,3,\n")
    text = refuse()
    assert "table.csv:1: the columns are file, people, note. Say what they are: --columns" in text


def test_counts_of_pandas_arrive(write, load, source):
    frame = pandas.DataFrame({"file": ["pics/a1.jpg", "pics/a2.jpg"], "people": [3, 0]})
    frame.to_csv(source / "table.csv")
    assert load(columns=COUNTS) == {"a1.jpg": (3, None), "a2.jpg": (0, None)}
    assert (
        "of which show nobody: 1. People: 3, from 0 to 3 a picture. There is no" in load.lines[-1]
    )


def test_the_form_of_a_spreadsheet_arrives(write, load):
    write('\ufeffPeople;"File"\r\n3;C:\\cam\\a1.jpg\r\n;\r\n4;a2\r\n')
    assert load(columns=COUNTS) == {"a1.jpg": (3, None), "a2.jpg": (4, None)}


def test_points_are_counted_and_a_frame_without_row_is_asked_for(write, load, refuse):
    write("file,px,py\na1.jpg,1.25,2\na1.jpg,30,40.5\n")
    assert "1 picture has no annotation, such as a2.jpg. Add --empty zero" in refuse(columns=POINTS)
    expected = {"a1.jpg": (2, [(1.25, 2), (30, 40.5)]), "a2.jpg": (0, [])}
    assert load(columns=POINTS, empty="zero") == expected


def test_cameras_arrive(write, load, tmp_path):
    write("file,people,cam\na1.jpg,3,door\na2.jpg,4,hall\n")
    load(columns=COUNTS | {"camera": "cam"})
    table = (tmp_path / "data" / "labels.csv").read_text()
    assert table == "frame,count,camera\na1.jpg,3,door\na2.jpg,4,hall\n"


def test_a_table_beside_other_annotations_is_left_alone(write, load, source):
    write("class,n\nperson,2\n")
    (source / "classes.txt").write_text("person\n")
    (source / "pics" / "a1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert load(empty="skip")["a1.jpg"] == (1, [(32, 14.4)])


@pytest.mark.parametrize(
    "text",
    ["file", "file=a,count=b", "frame=a", "frame=a,x=b", "frame=a,count=", "frame=a,frame=b"],
)
def test_columns_of_no_use_are_refused(text):
    with pytest.raises(UserError, match=rf"^--columns: is '{text}', expected .* Correct it\.$"):
        parse_columns(text)


def test_columns_are_parsed():
    assert parse_columns("frame=File, count = People") == COUNTS
    assert parse_columns(None) == {}


BAD = {
    "blank": ("file,people\na1.jpg,\n", "table.csv:2: count is '', expected a number"),
    "half": ("file,people\na1.jpg,2.5\n", "count is '2.5', expected a whole number"),
    "negative": ("file,people\na1.jpg,-1\n", "count is '-1', expected a whole number"),
    "words": ("file,people\na1.jpg,3 people\n", "count is '3 people', expected a number"),
    "huge": ("file,people\na1.jpg,10000\n", "the count is 10,000, more than 9999"),
    "infinite": ("file,people\na1.jpg,inf\n", "count is 'inf', expected a number"),
    "short row": ("file,people\na1.jpg\n", "table.csv:2: 'a1.jpg' has 1 values, expected 2"),
    "quote": ('file,people\n"a1.jpg,3\n', "Correct the quotes there"),
    "no name": ("file,people\n,3\n", "table.csv:2: frame is '', expected a name"),
    "twice": ("file,people\na1.jpg,3\na1.jpg,3\n", "table.csv:3: frame 'a1.jpg' is on line 2 too"),
    "one picture": ("file,people\na1.jpg,3\npics/a1.jpg,3\n", "is annotated here and in"),
    "missing": ("file,people\nb.jpg,3\n", "picture b.jpg is not among the 2 pictures"),
    "column": ("file,count\na1.jpg,3\n", "has no column 'people'. It has file, count. Correct"),
    "header": ("file\na1.jpg\n", "the header is 'file', expected at least two"),
    "repeated": ("file,file\na1.jpg,1\n", "the header is 'file,file', expected at least two"),
    "empty": ("", "the header is '', expected at least two"),
    "no rows": ("file,people\n", "no frame is left"),
    "UTF-16": ("file,people\n".encode("utf-16"), "table.csv:1: "),
    "CP949": (
        "file,people\n프레임.jpg,3\n".encode("cp949"),
        "is not UTF-8. Save the file as UTF-8",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_counts_are_one_line_and_nothing_is_written(write, refuse, case):
    text, expected = BAD[case]
    write(text)
    text = refuse(columns=COUNTS)
    assert expected in text
    assert len(text.splitlines()) == 1


BAD_POINTS = {
    "words": ("a1.jpg,left,3\n", "x is 'left', expected a number"),
    "outside": ("a1.jpg,1,60\n", "a mark at (1, 60) lies outside its 64x48 pixels"),
    "left": ("a1.jpg,-7,6\n", "a mark at (-7, 6) lies outside its 64x48 pixels"),
    "twice": ("a1.jpg,1,2\na1.jpg,1,2\n", "two equal marks are at (1, 2). Delete one"),
    "missing": ("c.jpg,1,2\n", "picture c.jpg is not among the 2 pictures"),
}


@pytest.mark.parametrize("case", BAD_POINTS)
def test_bad_points_are_one_line_and_nothing_is_written(write, refuse, case):
    rows, expected = BAD_POINTS[case]
    write("file,px,py\n" + rows)
    text = refuse(columns=POINTS, empty="skip")
    assert expected in text
    assert len(text.splitlines()) == 1
