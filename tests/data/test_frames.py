"""Reading data/: what is accepted, and how each problem of a row or a file is named."""

import hashlib
import os
import re
import unicodedata
from pathlib import Path

import pytest

from llava_dvc.data.data_errors import DataError
from llava_dvc.data.decode_cache import DecodeCache
from llava_dvc.data.frames import read_frames, scan_data, take_unlabelled
from llava_dvc.data.imports.mall import default_messages
from llava_dvc.data.labels import read_labels, write_labels
from tests.conftest import frame


@pytest.fixture
def data(tmp_path):
    """Three good frames: 1, 2 and 10, with 5, 6 and 7 people."""
    folder = tmp_path / "data"
    for number in (1, 2, 10):
        save_image(folder / "frames" / f"seq_{number:06d}.jpg", number)
    write_labels(folder / "labels.csv", {1: 5, 2: 6, 10: 7})
    (folder / "messages.txt").write_text(default_messages(), encoding="utf-8")
    return folder


def save_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame(seed).save(path)


def problems(data: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_frames(data, exclude)
    return [str(problem).replace(f"{data}/", "") for problem in caught.value.problems]


def kinds(data: Path) -> list[tuple[str, str | None]]:
    return [(problem.kind, problem.frame) for problem in scan_data(data, exclude=()).problems]


def with_labels(data: Path, text: str) -> Path:
    (data / "labels.csv").write_bytes(text.encode("utf-8", "surrogateescape"))
    return data


# --- labels.csv -------------------------------------------------------------------------------


def test_frames_come_in_order_of_time(data):
    with_labels(data, "id,count\n10,7\n000002,6\n1,5\n")
    frames = read_frames(data, exclude=())
    assert [(frame.name, frame.count) for frame in frames] == [
        ("seq_000001.jpg", 5),
        ("seq_000002.jpg", 6),
        ("seq_000010.jpg", 7),
    ]
    assert frames[2].path == data / "frames" / "seq_000010.jpg"
    assert frames[2].camera is None


def test_frames_may_be_named_and_have_a_camera(tmp_path):
    names = ("door/9.jpg", "door/10.jpg", "문.png", "two words.jpg", "👨\u200d👩\u200d👧.jpg")
    for seed, name in enumerate(names):
        save_image(tmp_path / "frames" / name, seed)
    rows = [f"{'hall' if '/' not in name else 'door'},{name},{len(name)}" for name in names]
    with_labels(tmp_path, "camera,frame,count\n" + "\n".join(rows))
    frames = read_frames(tmp_path, exclude=())
    assert {frame.name for frame in frames} == set(names)
    assert [(f.name, f.camera) for f in frames if f.camera == "door"] == [
        ("door/9.jpg", "door"),
        ("door/10.jpg", "door"),
    ]


def test_labels_survive_a_round_trip(tmp_path):
    write_labels(tmp_path / "labels.csv", {2000: 31, 1: 0})
    labels = read_labels(tmp_path / "labels.csv")
    assert [(label.name, label.count) for label in labels] == [
        ("seq_000001.jpg", 0),
        ("seq_002000.jpg", 31),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffid,count\n1,5\n2,6\n10,7\n",
        "id,count\r\n1,5\r\n2,6\r\n10,7\r\n",
        "id,count\r1,5\r2,6\r10,7\r",
        "id;count\n1;5\n2;6\n10;7\n",
        "id\tcount\n1\t5\n2\t6\n10\t7",
        '"id","count"\n"1","5"\n"2", "6"\n10,7\n',
        "ID, Count \n 1 , 5\n\n,\n  \n2,6\n10,007\n\n",
        "count,id\n7,10\n5,000001\n6,2\n",
    ],
)
def test_the_forms_that_a_spreadsheet_writes_are_read(data, text):
    assert [frame.count for frame in read_frames(with_labels(data, text), exclude=())] == [5, 6, 7]


def test_a_link_that_leads_nowhere_is_said(data):
    path = data / "frames" / "seq_000001.jpg"
    path.unlink()
    path.symlink_to("../../cache/12/ab")
    with pytest.raises(DataError) as caught:
        read_frames(data, exclude=())
    assert (
        "seq_000001.jpg does not exist. It is a link to ../../cache/12/ab, which is missing. Add "
    ) in str(caught.value)


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    with pytest.raises(
        DataError, match=r"no/such: folder not found. To restore it, run `git checkout"
    ):
        read_frames(Path("no/such"), exclude=())
    (tmp_path / "frames").mkdir()
    with pytest.raises(DataError, match=r"labels.csv: not found. To restore it, run `git checkout"):
        read_frames(tmp_path, exclude=())
    assert [problem.place for problem in scan_data(tmp_path, exclude=()).problems] == [
        str(tmp_path / "labels.csv"),
        str(tmp_path / "messages.txt"),
    ]


@pytest.mark.parametrize(
    "header", ["", "number,people", "id,frame,count", "id;count,x", "id,count,count", "id", "1,5"]
)
def test_an_unknown_header_is_refused(data, header):
    (problem,) = problems(with_labels(data, f"{header}\n1,5\n"))
    assert problem.startswith(f"labels.csv:1: header is {header!r}, expected `id,count` or")


def test_an_empty_table_is_refused(data):
    assert problems(with_labels(data, ""))[0].startswith("labels.csv:1: header is ''")
    found = problems(with_labels(data, "id,count\n"))
    assert "frames/seq_000001.jpg: has no label in labels.csv" in found[0]
    assert found[-1].startswith("labels.csv: no frame is left")


@pytest.mark.parametrize(
    "count",
    ["", "many", "-1", "3.5", "3.0", "1e3", "12 people", "NaN", "inf", "٣", "10000", "9" * 5000],
)
def test_a_count_is_a_whole_number(data, count):
    (problem,) = problems(with_labels(data, f"id,count\n1,5\n2,{count}\n10,7\n"))
    given = repr(count if len(count) <= 80 else count[:80] + "...")
    assert problem == (
        f"labels.csv:3: count is {given}, expected a whole number from 0 to 9999. Correct the "
        "label, or list seq_000002.jpg under data.exclude in params.yaml."
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("two,6", "id is 'two', expected the number in frames/seq_NNNNNN.jpg"),
        ("-2,6", "id is '-2', expected the number"),
        (",6", "id is '', expected the number"),
        ("2", r"'2' has 1 values, expected 2 \(id,count\)"),
        ("2,6,door", r"'2,6,door' has 3 values, expected 2"),
        ("2;6", r"'2;6' has 1 values, expected 2"),
        ('2,"6', "'2,\"6': unexpected end of data. Correct the quotes"),
        ("2,\udcff", r"'2,\\udcff' is not UTF-8. Save the file as UTF-8"),
        ("0001,5", "seq_000001.jpg has the same label on line 2. Delete one of the two lines"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_spoils_no_other(data, row, reason):
    found = problems(with_labels(data, f"id,count\n1,5\n{row}\n10,7\n"))
    assert re.match(f"labels.csv:3: {reason}", found[0])
    names = [frame.name for frame in scan_data(data, exclude=()).frames]
    assert names == ["seq_000001.jpg", "seq_000010.jpg"]


@pytest.mark.parametrize("length", [1025, 1_200_000])
def test_a_name_that_no_file_can_have_is_refused(data, length):
    found = problems(with_labels(data, f"frame,count\nseq_000001.jpg,5\n{'1' * length},6\n"))
    assert found[0] == (
        f"labels.csv:3: frame is '{'1' * 80}...' with {length:,} characters, expected at most "
        "1,024. Correct the line, or rename the frame."
    )


def test_of_two_different_labels_neither_is_used(data):
    found = problems(with_labels(data, "id,count\n1,5\n2,6\n0001,9\n10,7\n"))
    text = "seq_000001.jpg has different labels: 5 on line 2, 9 on line 4. Delete the wrong ones."
    assert found == [f"labels.csv:2: {text}", f"labels.csv:4: {text}"]
    assert [frame.count for frame in scan_data(data, exclude=()).frames] == [6, 7]


def test_a_blank_camera_is_refused(data):
    found = problems(with_labels(data, "frame,count,camera\nseq_000001.jpg,5,\n"))
    assert found[0].startswith(
        "labels.csv:2: camera is blank. Write its name, or delete the column `camera`"
    )


@pytest.mark.parametrize("encoding", ["utf-16", "cp949"])
def test_a_file_that_is_not_utf8_is_refused(data, encoding):
    text = "frame,count\n문.jpg,5\n"
    (data / "labels.csv").write_bytes(text.encode(encoding))
    assert "UTF-8" in problems(data)[0]


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read(tmp_path):
    write_labels(tmp_path / "labels.csv", {number: number % 50 for number in range(100_000)})
    with (tmp_path / "labels.csv").open("a") as file:
        file.write("x,1\n")
    with pytest.raises(DataError, match=r"labels.csv:100002: id is 'x'") as caught:
        read_labels(tmp_path / "labels.csv")
    assert len(caught.value.problems) == 1


# --- frames -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "a/../b.jpg", "a\\b.jpg", ".", "", "a\tb", "a" * 300]
)
def test_a_frame_outside_frames_is_refused(data, name):
    save_image(data / "secret.jpg")
    found = problems(with_labels(data, f"frame,count\n{name},5\n"))
    refused = f"frame is {name!r}, expected a path inside frames/"
    assert found[0].startswith(f"labels.csv:2: {refused if len(name) < 99 else 'frame frames/aaa'}")


def test_a_link_out_of_data_is_refused_unless_dvc_made_it(data, tmp_path):
    link = data / "frames" / "seq_000001.jpg"
    content = link.read_bytes()
    link.unlink()
    save_image(tmp_path / "elsewhere.jpg", 99)
    link.symlink_to(tmp_path / "elsewhere.jpg")
    (problem,) = problems(data)
    assert problem.startswith("frames/seq_000001.jpg: is a link to")

    # Named like a file in DVC's cache, but not by the MD5 of its own bytes.
    cached = tmp_path / "cache" / "files" / "md5" / "ab" / ("0" * 30)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(content)
    link.unlink()
    link.symlink_to(cached)
    assert "is a link to" in problems(data)[0]

    digest = hashlib.md5(content).hexdigest()
    real = tmp_path / "cache" / "files" / "md5" / digest[:2] / digest[2:]
    real.parent.mkdir(parents=True, exist_ok=True)
    real.write_bytes(content)
    link.unlink()
    link.symlink_to(real)
    assert len(read_frames(data, exclude=())) == 3


@pytest.mark.parametrize("name", ["frames", "labels.csv", "messages.txt"])
def test_no_other_link_out_of_data_is_followed(data, tmp_path, name):
    (data / name).rename(tmp_path / "moved")
    (data / name).symlink_to(tmp_path / "moved")
    (problem,) = [p for p in scan_data(data, exclude=()).problems if p.kind == "link"]
    assert problem.place == str(data / name)
    assert not problem.skippable


def test_a_linked_folder_outside_data_is_not_read(data, tmp_path):
    save_image(tmp_path / "other" / "1.jpg", 8)
    (data / "frames" / "cam").symlink_to(tmp_path / "other")
    assert kinds(data) == [("link", "cam")]
    with_labels(data, "frame,count\nseq_000001.jpg,5\ncam/1.jpg,3\n")
    assert ("link", "cam/1.jpg") in kinds(data)


def test_a_pipe_is_not_a_frame(data):
    os.mkfifo(data / "frames" / "seq_000003.jpg")
    (data / "labels.csv").open("a").write("3,4\n")
    (problem,) = problems(data)
    assert problem.startswith("labels.csv:5: frame frames/seq_000003.jpg is not a file")


def test_names_that_differ_only_in_case_are_refused(data):
    save_image(data / "frames" / "SEQ_000001.jpg", 7)
    with_labels(data, "frame,count\nseq_000001.jpg,5\nSEQ_000001.jpg,6\n")
    (problem,) = [p for p in problems(data) if "only in case" in p]
    assert problem.startswith("labels.csv:2: frame seq_000001.jpg differs only in case or accents")


@pytest.mark.parametrize(
    ("label", "file"), [("A.jpg", "a.jpg"), ("카.jpg", unicodedata.normalize("NFD", "카.jpg"))]
)
def test_a_file_with_a_similar_name_is_pointed_out(tmp_path, label, file):
    assert label != file
    save_image(tmp_path / "frames" / file)
    found = problems(with_labels(tmp_path, f"frame,count\n{label},5\n"))
    assert f"does not exist. There is {file}: write that name, or rename the file." in found[0]


def test_equal_files_are_one_frame(data):
    (data / "frames" / "seq_000002.jpg").write_bytes(
        (data / "frames" / "seq_000001.jpg").read_bytes()
    )
    with_labels(data, "id,count\n1,5\n2,5\n10,7\n")
    (problem,) = problems(data)
    assert problem.startswith(
        "labels.csv:3: frame frames/seq_000002.jpg is the same file as seq_000001.jpg."
    )
    with_labels(data, "id,count\n1,5\n2,6\n10,7\n")
    assert kinds(data) == [("contradiction", "seq_000002.jpg"), ("contradiction", "seq_000001.jpg")]
    assert [frame.name for frame in scan_data(data, exclude=()).frames] == ["seq_000010.jpg"]


def test_a_broken_image_is_named_by_its_line(data):
    (data / "frames" / "seq_000002.jpg").write_bytes(b"no picture")
    (problem,) = problems(data)
    assert problem.startswith(
        "labels.csv:3: frame frames/seq_000002.jpg is not in a known image format (JPEG, "
    )
    assert problem.endswith("or list seq_000002.jpg under data.exclude in params.yaml.")


def test_all_problems_are_reported_at_once(data):
    (data / "frames" / "seq_000002.jpg").write_bytes(b"")
    save_image(data / "frames" / "seq_000003.jpg", 3)
    (data / "frames" / ".DS_Store").touch()
    with_labels(data, "id,count\n1,x\n2,6\n4,4\n10,7\n")
    starts = [
        "labels.csv:2: count is 'x'",
        "labels.csv:3: frame frames/seq_000002.jpg is empty",
        "labels.csv:4: frame frames/seq_000004.jpg does not exist. Add the file",
        "frames/seq_000003.jpg: has no label in",
        "params.yaml: data.exclude: 'seq_000005.jpg' is not a frame of",
    ]
    found = problems(data, exclude=("seq_000005.jpg",))
    assert [problem[: len(start)] for problem, start in zip(found, starts, strict=True)] == starts


def test_a_picture_without_a_label_can_be_told_from_other_files(data):
    """With data.unlabelled: allow it is only counted; all else is still refused."""
    save_image(data / "frames" / "door" / "000030.JPG", 3)
    (data / "frames" / "notes.txt").touch()
    (data / "frames" / "seq_000002.jpg").write_bytes(b"")
    scan = scan_data(data, exclude=())
    waiting, others = take_unlabelled(scan.problems)
    assert waiting == ["door/000030.JPG"]
    assert [(p.kind, p.frame) for p in others] == [
        ("empty", "seq_000002.jpg"),
        ("unlabelled", "notes.txt"),
    ]
    assert [frame.name for frame in scan.frames] == ["seq_000001.jpg", "seq_000010.jpg"]


def test_an_excluded_frame_is_not_checked(data):
    (data / "frames" / "seq_000002.jpg").write_bytes(b"")
    save_image(data / "frames" / "extra.jpg", 4)
    with_labels(data, "id,count\n1,x\n2,6\n10,7\n")
    frames = read_frames(data, exclude=("seq_000001.jpg", "seq_000002.jpg", "extra.jpg"))
    assert [frame.name for frame in frames] == ["seq_000010.jpg"]


def test_no_frame_left_is_an_error(data):
    every = [frame.name for frame in read_frames(data, exclude=())]
    with pytest.raises(DataError, match="no frame is left"):
        read_frames(data, exclude=every)


# --- the decode cache -------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """The bytes of every image that is decoded."""
    from llava_dvc.data import frames

    seen: list[bytes] = []
    real = frames.decode_image
    monkeypatch.setattr(
        frames, "decode_image", lambda content: seen.append(content) or real(content)
    )
    return seen


def test_only_new_images_are_decoded_again(data, tmp_path, decoded):
    assert scan_data(data, (), DecodeCache.in_repository(tmp_path)).problems == []
    assert len(decoded) == 3
    save_image(data / "frames" / "seq_000003.jpg", 3)
    write_labels(data / "labels.csv", {1: 5, 2: 6, 3: 4, 10: 7})
    assert len(scan_data(data, (), DecodeCache.in_repository(tmp_path)).frames) == 4
    assert decoded[3:] == [(data / "frames" / "seq_000003.jpg").read_bytes()]


@pytest.mark.parametrize("state", ["whole", "deleted", "cut", "garbage"])
def test_no_state_of_the_cache_hides_a_bad_frame(data, tmp_path, state):
    """The bad frame has the name, size and date of the good one."""
    scan_data(data, (), DecodeCache.in_repository(tmp_path))
    (kept,) = (tmp_path / "checked").iterdir()
    text = kept.read_bytes()
    if state == "deleted":
        kept.unlink()
    else:
        kept.write_bytes({"whole": text, "cut": text[:90], "garbage": b"\xff\0\n" * 9}[state])
    path = data / "frames" / "seq_000002.jpg"
    before = path.stat()
    path.write_bytes(bytes(4) + path.read_bytes()[4:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    found = scan_data(data, (), DecodeCache.in_repository(tmp_path))
    assert [(p.kind, p.frame) for p in found.problems] == [("no picture", "seq_000002.jpg")]
    assert len(found.frames) == 2


def test_another_pillow_starts_an_empty_cache(data, tmp_path, decoded, monkeypatch):
    scan_data(data, (), DecodeCache.in_repository(tmp_path))
    monkeypatch.setattr("PIL.__version__", "0")
    scan_data(data, (), DecodeCache.in_repository(tmp_path))
    assert len(decoded) == 6


def test_a_cache_that_cannot_be_written_is_no_error(data, tmp_path):
    (tmp_path / "checked").write_text("in the way")
    assert scan_data(data, (), DecodeCache.in_repository(tmp_path)).problems == []
