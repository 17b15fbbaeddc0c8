import json
import re
from pathlib import Path

import pytest
from PIL import Image

from llava_dvc.frames import (
    Conversation,
    DataError,
    format_conversation,
    parse_conversation,
    read_conversations,
    read_frames,
    read_labels,
    write_labels,
)

QUESTION = "How many people are in this image? Answer with a single number."


@pytest.fixture
def data(tmp_path):
    """Three good frames: 1, 2 and 10, with 5, 6 and 7 people."""
    folder = tmp_path / "data"
    for number in (1, 2, 10):
        picture(folder / "frames" / f"seq_{number:06d}.jpg")
    write_labels(folder / "labels.csv", {1: 5, 2: 6, 10: 7})
    return folder


def picture(path: Path, size: tuple[int, int] = (32, 24)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.radial_gradient("L").resize(size).save(path)


def problems(data: Path, exclude: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(DataError) as caught:
        read_frames(data, exclude)
    return [problem.replace(f"{data}/", "") for problem in caught.value.problems]


def with_labels(data: Path, text: str) -> Path:
    (data / "labels.csv").write_text(text, encoding="utf-8")
    return data


# --- frames and labels.csv --------------------------------------------------------------------


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
    for name in ("door/9.jpg", "door/10.jpg", "문.png"):
        picture(tmp_path / "frames" / name)
    with_labels(
        tmp_path, "camera,frame,count\nhall,문.png,3\ndoor,door/10.jpg,2\ndoor,door/9.jpg,1\n"
    )
    frames = read_frames(tmp_path, exclude=())
    assert [(frame.name, frame.camera) for frame in frames] == [
        ("door/9.jpg", "door"),
        ("door/10.jpg", "door"),
        ("문.png", "hall"),
    ]


def test_labels_survive_a_round_trip(tmp_path):
    write_labels(tmp_path / "labels.csv", {2000: 31, 1: 0})
    labels = read_labels(tmp_path / "labels.csv")
    assert [(label.name, label.count) for label in labels] == [
        ("seq_000001.jpg", 0),
        ("seq_002000.jpg", 31),
    ]


def test_spreadsheet_habits_are_read(data):
    text = "\ufeffid,count\r\n1, 5\r\n\r\n2,6\r\n10,7\r\n"
    (data / "labels.csv").write_bytes(text.encode())
    assert [frame.count for frame in read_frames(data, exclude=())] == [5, 6, 7]


def test_a_missing_folder_says_how_to_get_it(tmp_path):
    with pytest.raises(DataError, match=r"no/such: folder not found. Run `dvc pull data.dvc`"):
        read_frames(Path("no/such"), exclude=())
    (tmp_path / "frames").mkdir()
    with pytest.raises(DataError, match=r"labels.csv: not found. Run `dvc pull data.dvc`"):
        read_frames(tmp_path, exclude=())


@pytest.mark.parametrize(
    "header", ["", "number,people", "id,frame,count", "id;count", "id,count,count", "id"]
)
def test_another_header_is_refused(data, header):
    (problem,) = problems(with_labels(data, f"{header}\n1,5\n"))
    assert problem.startswith(f"labels.csv:1: header is {header!r}, expected `id,count` or")


@pytest.mark.parametrize(
    "count", ["", "many", "-1", "3.0", "1e3", "12 people", "nan", "٣", "9" * 5000]
)
def test_a_count_is_a_whole_number(data, count):
    (problem,) = problems(with_labels(data, f"id,count\n1,5\n2,{count}\n10,7\n"))
    assert problem == (
        f"labels.csv:3: count is {count!r}, expected a whole number >= 0. Fix the label, or list "
        "seq_000002.jpg under data.exclude in params.yaml."
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("two,6", "id is 'two', expected the number in frames/seq_NNNNNN.jpg"),
        ("-2,6", "id is '-2', expected the number"),
        (",6", "id is '', expected the number"),
        ("2", r"'2' has 1 values, expected 2 \(id,count\)"),
        ("2,6,door", r"'2,6,door' has 3 values, expected 2"),
        ("0001,9", "seq_000001.jpg has a label on line 2. Keep only one"),
    ],
)
def test_a_bad_row_is_named_by_its_line(data, row, reason):
    found = problems(with_labels(data, f"id,count\n1,5\n{row}\n10,7\n"))
    assert re.match(f"labels.csv:3: {reason}", found[0])


def test_a_camera_has_a_name(data):
    found = problems(with_labels(data, "frame,count,camera\nseq_000001.jpg,5,\n"))
    assert found[0].startswith("labels.csv:2: camera is blank. Name it, or leave the column out")


def test_broken_text_is_one_line(data):
    (data / "labels.csv").write_bytes(b"id,count\n1,\xff\n")
    assert problems(data) == ["labels.csv: byte 11 is not UTF-8. Save it as UTF-8."]
    with_labels(data, 'id,count\n1,5\n2,"6\n')
    assert problems(data) == ["labels.csv:3: unexpected end of data. Mend the quotes there."]


@pytest.mark.parametrize(
    "name", ["../secret.jpg", "/etc/passwd", "a/../b.jpg", "a\\b.jpg", ".", ""]
)
def test_a_frame_lies_inside_frames(data, name):
    picture(data / "secret.jpg")
    found = problems(with_labels(data, f"frame,count\n{name},5\n"))
    assert found[0].startswith(f"labels.csv:2: frame is {name!r}, expected a path inside frames/")


def test_a_link_out_of_data_is_refused_unless_dvc_made_it(data, tmp_path):
    link = data / "frames" / "seq_000001.jpg"
    link.unlink()
    picture(tmp_path / "elsewhere.jpg")
    link.symlink_to(tmp_path / "elsewhere.jpg")
    (problem,) = problems(data)
    assert "frames/seq_000001.jpg is a link to" in problem

    cached = tmp_path / "cache" / "files" / "md5" / "ab" / ("0" * 30)
    cached.parent.mkdir(parents=True)
    (tmp_path / "elsewhere.jpg").rename(cached)
    link.unlink()
    link.symlink_to(cached)
    assert len(read_frames(data, exclude=())) == 3


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_a_file_that_is_no_picture_is_named(data, content):
    (data / "frames" / "seq_000002.jpg").write_bytes(content)
    (problem,) = problems(data)
    assert problem.startswith("labels.csv:3: frame frames/seq_000002.jpg cannot be decoded (")
    assert "list seq_000002.jpg under data.exclude" in problem


def test_only_the_usual_formats_are_decoded(data):
    path = data / "frames" / "seq_000002.jpg"
    Image.new("L", (32, 24)).save(path, format="PPM")
    (problem,) = problems(data)
    assert "frames/seq_000002.jpg cannot be decoded (cannot identify image file)" in problem


def test_a_truncated_picture_is_found(data):
    path = data / "frames" / "seq_000002.jpg"
    picture(path, size=(320, 240))
    path.write_bytes(path.read_bytes()[:-400])
    (problem,) = problems(data)
    assert "frames/seq_000002.jpg cannot be decoded (image file is truncated" in problem


def test_a_huge_picture_is_not_decoded(data, monkeypatch):
    picture(data / "frames" / "seq_000002.jpg", size=(40, 30))
    monkeypatch.setattr("llava_dvc.frames.MAX_PIXELS", 1000)
    monkeypatch.setattr("PIL.JpegImagePlugin.JpegImageFile.load", lambda image: 1 / 0)
    found = problems(data, exclude=("seq_000001.jpg", "seq_000010.jpg"))
    assert found[0].startswith(
        "labels.csv:3: frame frames/seq_000002.jpg is 40x30, more than 1,000"
    )


def test_everything_wrong_is_said_at_once(data):
    (data / "frames" / "seq_000002.jpg").write_bytes(b"")
    picture(data / "frames" / "seq_000003.jpg")
    (data / "frames" / ".DS_Store").touch()
    with_labels(data, "id,count\n1,x\n2,6\n4,4\n10,7\n")
    starts = [
        "labels.csv:2: count is 'x'",
        "labels.csv:3: frame frames/seq_000002.jpg cannot be decoded",
        "labels.csv:4: frame frames/seq_000004.jpg does not exist",
        "frames/seq_000003.jpg: has no label in",
        "params.yaml: data.exclude: 'seq_000005.jpg' is no frame of",
    ]
    found = problems(data, exclude=("seq_000005.jpg",))
    assert [problem[: len(start)] for problem, start in zip(found, starts, strict=True)] == starts


def test_an_excluded_frame_is_not_looked_at(data):
    (data / "frames" / "seq_000002.jpg").write_bytes(b"")
    picture(data / "frames" / "extra.jpg")
    with_labels(data, "id,count\n1,x\n2,6\n10,7\n")
    frames = read_frames(data, exclude=("seq_000001.jpg", "seq_000002.jpg", "extra.jpg"))
    assert [frame.name for frame in frames] == ["seq_000010.jpg"]


def test_nothing_left_is_an_error(data):
    every = [frame.name for frame in read_frames(data, exclude=())]
    with pytest.raises(DataError, match="no frame is left"):
        read_frames(data, exclude=every)


def test_an_error_shows_twenty_problems_and_keeps_all():
    error = DataError([f"line {i}" for i in range(25)])
    assert str(error).splitlines()[-2:] == ["line 19", "... and 5 more"]
    assert len(error.problems) == 25
    assert str(DataError(["one", "two"])) == "one\ntwo"


# --- messages.txt -----------------------------------------------------------------------------


def example(**changes) -> str:
    parts = {
        "image": [{"type": "image"}],
        "question": [{"type": "text", "text": QUESTION}],
        "answer": "{count}",
        "roles": ("user", "assistant"),
    } | changes
    contents = (parts["image"] + parts["question"], [{"type": "text", "text": parts["answer"]}])
    turns = zip(parts["roles"], contents, strict=False)
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def test_a_conversation_becomes_messages():
    conversation = Conversation(QUESTION, "{count}")
    user = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": QUESTION}],
    }
    assistant = {"role": "assistant", "content": [{"type": "text", "text": "31"}]}
    assert conversation.messages(count=None) == [user]
    assert conversation.messages(count=31) == [user, assistant]


def test_the_contract_line_is_read():
    assert parse_conversation(example()) == Conversation(QUESTION, "{count}")


def test_a_conversation_survives_a_round_trip():
    conversation = Conversation('사람이 "몇" 명 {있나요}?\n숫자만.', "{count}")
    line = format_conversation(conversation)
    assert "\n" not in line
    assert parse_conversation(line) == conversation


def test_comments_and_blank_lines_are_passed_over(tmp_path):
    text = f"# English\r\n{example()}\r\n\n  \n{example()}"
    (tmp_path / "messages.txt").write_text(text, encoding="utf-8", newline="")
    assert len(read_conversations(tmp_path)) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages": [', "not JSON: Expecting value at column 15"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        ("[]", "expected `messages` with one user and then one assistant message"),
        (example(roles=("system", "user")), "expected `messages` with one user and then"),
        (example(roles=("user",)), "expected `messages` with one user and then"),
        (example(roles=("user", "user")), "expected one assistant text as the second message"),
        (example(image=[]), "expected one image and then one text from the user"),
        (example(image=[{"type": "image"}] * 2), "expected one image and then one text"),
        (example(question=[]), "expected one image and then one text"),
        (example(question=[{"type": "text", "text": " "}]), "the question is blank"),
        (example(question=[{"type": "text", "text": "{count}?"}]), "the question holds {count}"),
        (example(question=[{"type": "text", "text": "<image>?"}]), "the question holds <image>"),
        (example(answer="{count} people"), "the assistant text is '{count} people', expected just"),
        (example(answer="31"), "the assistant text is '31', expected just {count}"),
    ],
)
def test_a_bad_conversation_is_named_by_its_line(tmp_path, line, reason):
    (tmp_path / "messages.txt").write_text(f"# first\n{example()}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"messages.txt:3: {reason}")) as caught:
        read_conversations(tmp_path)
    assert len(caught.value.problems) == 1


def test_messages_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"messages.txt: not found. Run `dvc pull data.dvc`"):
        read_conversations(tmp_path)
    (tmp_path / "messages.txt").write_text("# nothing yet\n")
    with pytest.raises(DataError, match="holds no conversation"):
        read_conversations(tmp_path)
