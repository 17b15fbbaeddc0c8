"""Frames that users corrected: kept as a whole, within limits, for the importer."""

import json
import sys

import pytest

from llava_dvc import cli
from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.import_source import ImportPlan, import_source
from llava_dvc.errors import UserError
from llava_dvc.serving.page import corrections
from llava_dvc.serving.page.corrections import CorrectionFolder, CorrectionsFull
from tests.conftest import frame
from tests.serving.requests import FORM, JPEG, encoded, form


@pytest.fixture
def folder(tmp_path):
    opened = CorrectionFolder(tmp_path / "kept")
    yield opened
    opened.close()


def rows(path) -> list[str]:
    return (path / "labels.csv").read_text().splitlines()


def kept_files(path) -> list[str]:
    return sorted(one.name for one in (path / "frames").iterdir())


def imported(path, data) -> dict[str, int]:
    """The frames that `llava-dvc import` finds, with their counts."""
    number = import_source(ImportPlan(path, None, None, ImportChoices()), data, lambda text: None)
    frames = read_frames(data, exclude=())
    assert len(frames) == number
    return {one.name: one.count for one in frames}


def test_the_importer_takes_what_the_service_has_kept(service, tmp_path):
    kinds = ["JPEG", "PNG", "WEBP", "BMP", "TIFF"]
    bodies = [encoded(frame(seed), kind) for seed, kind in enumerate(kinds)]
    for count, body in enumerate(bodies):
        status, answer = service.ask("POST", f"/corrections?count={count}", body, JPEG)
        assert status == 200, answer
    status, answer = service.ask("POST", "/corrections?count=40", form(bodies[0]), FORM)
    kept = json.loads(answer)["kept"]
    found = imported(service.corrections, tmp_path / "data")
    assert len(found) == kept == len(kept_files(service.corrections))
    by_bytes = {
        (tmp_path / "data" / "frames" / name).read_bytes(): count for name, count in found.items()
    }
    assert [by_bytes[body] for body in bodies] == [40, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("count", "body", "status", "says"),
    [
        ("", b"", 400, "count is ''; send a whole number from 0 to 9999"),
        ("-1", b"", 400, "count is '-1'"),
        ("10000", b"", 400, "count is '10000'"),
        ("%C2%B3", b"", 400, "send a whole number"),
        ("3", b"garbage", 400, "the image is not in a known image format"),
        ("3", b"x" * 20_000_001, 413, "over 20,000,000 bytes"),
    ],
)
def test_a_bad_correction_is_a_4xx_and_nothing_is_kept(service, count, body, status, says):
    before = kept_files(service.corrections)
    got, answer = service.ask("POST", f"/corrections?count={count}", body, JPEG)
    assert (got, says in json.loads(answer)["detail"]) == (status, True)
    assert kept_files(service.corrections) == before


def test_a_page_of_another_site_cannot_add_frames(service):
    headers = JPEG | {"Origin": "http://evil.example"}
    assert service.ask("POST", "/corrections?count=3", encoded(frame(9)), headers)[0] == 403


def test_a_frame_that_is_kept_gets_the_new_count(folder, tmp_path):
    one, other, kept = encoded(frame(1)), encoded(frame(2)), tmp_path / "kept"
    assert folder.keep(one, 4) == 1
    (name,) = kept_files(kept)
    earlier = "2025" + name[4:]
    (kept / "frames" / name).rename(kept / "frames" / earlier)
    (kept / "labels.csv").write_text(f"frame,count\n{earlier},4\n")
    assert [folder.keep(other, 5), folder.keep(one, 6)] == [2, 2]
    found = imported(kept, tmp_path / "data")
    assert (len(found), found[earlier]) == (2, 6)


def test_an_edit_of_the_operator_stays(folder, tmp_path):
    folder.keep(encoded(frame(1)), 4)
    (name,) = kept_files(tmp_path / "kept")
    (tmp_path / "kept" / "labels.csv").write_text(f"frame,count\n{name},8\n")
    folder.keep(encoded(frame(2)), 5)
    assert f"{name},8" in rows(tmp_path / "kept")


def test_a_full_disk_leaves_neither_frame_nor_row(folder, tmp_path, monkeypatch):
    folder.keep(encoded(frame(1)), 4)
    before = rows(tmp_path / "kept"), kept_files(tmp_path / "kept")
    write = corrections._write

    def write_frames_only(path, content):
        if path.name == "labels.csv":
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(corrections, "_write", write_frames_only)
    with pytest.raises(CorrectionsFull, match="No space left"):
        folder.keep(encoded(frame(2)), 5)
    assert (rows(tmp_path / "kept"), kept_files(tmp_path / "kept")) == before


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [("MAX_CORRECTIONS", 1, "has 1 frames"), ("MAX_CORRECTION_BYTES", 1, "gets no more")],
)
def test_a_full_folder_takes_no_frame_but_a_new_count(
    folder, tmp_path, monkeypatch, limit, value, says
):
    one = encoded(frame(1))
    folder.keep(one, 4)
    monkeypatch.setattr(corrections, limit, value)
    with pytest.raises(CorrectionsFull, match=says):
        folder.keep(encoded(frame(2)), 5)
    assert folder.keep(one, 7) == 1
    assert rows(tmp_path / "kept")[1].endswith(",7")


def test_a_frame_that_a_kill_left_without_a_label_is_deleted(folder, tmp_path, capsys):
    folder.keep(encoded(frame(1)), 4)
    folder.close()
    alone = tmp_path / "kept" / "frames" / "20261126T120000Z-0123456789abcdef.jpg"
    alone.write_bytes(encoded(frame(2)))
    CorrectionFolder(tmp_path / "kept").close()
    assert not alone.exists()
    assert capsys.readouterr().err == f"{alone}: had no label, and was deleted.\n"
    assert len(kept_files(tmp_path / "kept")) == 1


def a_file(path):
    path.write_text("")


def labels_of_a_training_set(path):
    path.mkdir()
    (path / "labels.csv").write_text("id,count\n1,4\n")


def a_broken_table(path):
    path.mkdir()
    (path / "labels.csv").write_text("what\n")


def other_pictures(path):
    (path / "frames").mkdir(parents=True)
    (path / "frames" / "holiday.jpg").write_bytes(encoded(frame(1)))


def many_frames_alone(path):
    (path / "frames").mkdir(parents=True)
    for number in (1, 2):
        (path / "frames" / f"20261126T120000Z-000000000000000{number}.jpg").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (a_file, r"DIR cannot be used as a folder \(.+\)\. Name a folder that you may write to\."),
        (labels_of_a_training_set, r"DIR has 'seq_000001\.jpg', which `llava-dvc serve` did not"),
        (a_broken_table, r"DIR/labels\.csv:1: .+"),
        (
            other_pictures,
            r"DIR has 'holiday\.jpg', which .+ did not write\. Name an empty folder\.",
        ),
        (
            many_frames_alone,
            r"DIR/frames has 2 frames without a row in labels\.csv\. Delete them, or",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(make, says, tmp_path, monkeypatch, capsys):
    path = tmp_path / "kept"
    make(path)
    before = sorted(tmp_path.rglob("*.jpg"))
    command = ["llava-dvc", "serve", "--port", "0", "--keep-corrections", str(path)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(
        SystemExit, match="^error: --keep-corrections: " + says.replace("DIR", str(path))
    ) as stop:
        cli.main()
    assert "\n" not in str(stop.value)
    assert sorted(tmp_path.rglob("*.jpg")) == before


def test_two_services_cannot_use_one_folder(folder, tmp_path):
    with pytest.raises(UserError, match=r"is used by another `llava-dvc serve`\. Name another"):
        CorrectionFolder(tmp_path / "kept")
