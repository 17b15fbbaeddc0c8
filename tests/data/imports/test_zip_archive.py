"""Zips as the programs of several systems make them, and those that are refused."""

import warnings
import zipfile
from pathlib import Path

import pytest

from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports import mall, zip_archive
from llava_dvc.data.imports.zip_archive import unpack_zip
from llava_dvc.errors import UserError
from tests.data.imports.test_mall import (
    COUNTS,
    authors_labels,
    copys_labels,
    picture,
    source,
    zipped,
)

__all__ = ["source"]  # a fixture


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def written(archive: Path, members: dict[bytes, bytes], encoding: str = "cp437") -> Path:
    """A zip whose names are exactly these bytes, without the UTF-8 flag."""
    marks = {name: f"{number:03}".ljust(len(name), "_") for number, name in enumerate(members)}
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in members.items():
            file.writestr(marks[name], content)
    content = archive.read_bytes()
    for name, mark in marks.items():
        assert content.count(mark.encode()) == 2
        content = content.replace(mark.encode(), name)
    archive.write_bytes(content)
    return archive


def contents(folder: Path) -> dict[str, bytes]:
    """Files by their path in `folder`."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def renamed(source: Path, archive: Path, rename) -> Path:
    """A zip of `source`, whose members have the names that `rename` makes."""
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in contents(source.parent).items():
            file.writestr(rename(name), content)
    return archive


@pytest.mark.parametrize("labels", [authors_labels, copys_labels])
def test_a_zip_of_windows_powershell_arrives(source, data, tmp_path, labels):
    labels(source)
    archive = renamed(source, tmp_path / "a.zip", lambda name: name.replace("/", "\\"))
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("mall_dataset\\frames\\", b"")
    assert mall.import_mall(archive, data) == 4
    assert [frame.count for frame in read_frames(data, ())] == COUNTS


def test_what_macos_adds_is_ignored(source, data, tmp_path):
    copys_labels(source)
    archive = zipped(source, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("__MACOSX/mall_dataset/frames/._seq_000001.jpg", b"x")
        file.writestr("__MACOSX/mall_dataset/labels.csv", b"x")
        file.writestr("mall_dataset/frames/.DS_Store", b"x")
        file.writestr("mall_dataset/frames/Thumbs.db", b"x")
    assert mall.import_mall(archive, data) == 4


@pytest.mark.parametrize(
    ("name", "encoding"),
    [
        ("한국 영상.jpg", "cp949"),
        ("한국 영상.jpg", "euc-kr"),
        ("뷁똠.jpg", "cp949"),
        ("한국 영상.jpg", "utf-8"),
        ("Zürich.jpg", "cp437"),
        ("mät/été.jpg", "cp437"),
        ("münchen/ärzte.jpg", "cp437"),
        ("카메라 1/a.jpg", "cp949"),
    ],
)
@pytest.mark.parametrize("slash", ["/", "\\"])
def test_names_in_old_encodings_arrive(tmp_path, data, name, encoding, slash):
    picture(tmp_path / "a.jpg", shade=9)
    given = f"사진/frames/{name}" if encoding != "cp437" else f"frames/{name}"
    place = given.split("/")[0] if encoding != "cp437" else "."
    members = {
        given.replace("/", slash).encode(encoding): (tmp_path / "a.jpg").read_bytes(),
        f"{place}/labels.csv".replace("/", slash).encode(
            encoding
        ): f"frame,count\n{name},4".encode(),
    }
    assert mall.import_mall(written(tmp_path / "a.zip", members), data) == 1
    assert [frame.name for frame in read_frames(data, ())] == [name]


@pytest.mark.parametrize("twin", ["frames/a.jpg", "frames\\a.jpg", "./frames//a.jpg"])
def test_two_members_of_one_name_are_refused(tmp_path, twin):
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        warnings.simplefilter("ignore")
        file.writestr("frames/a.jpg", b"one")
        file.writestr(twin, b"two")
    reason = r"a.zip: has two members named 'frames/a.jpg'. Delete one of them, or unpack"
    with pytest.raises(UserError, match=reason):
        unpack_zip(tmp_path / "a.zip", tmp_path / "unpacked")
    assert not (tmp_path / "unpacked").exists()


@pytest.mark.parametrize("names", [["frames/" + "a" * 300 + ".jpg"], ["frames/a", "frames/a/b"]])
def test_what_this_disk_cannot_hold_is_one_line(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in names:
            file.writestr(name, b"x")
    reason = r"a.zip: cannot be unpacked \(.+\). Unpack it yourself and import the folder."
    with pytest.raises(UserError, match=reason):
        unpack_zip(tmp_path / "a.zip", tmp_path / "unpacked")


def test_a_zip_with_a_password_is_one_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("frames/a.jpg", b"x")
    content = bytearray((tmp_path / "a.zip").read_bytes())
    for start in (content.index(b"PK\3\4") + 6, content.index(b"PK\1\2") + 8):
        content[start] |= 1
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(UserError, match=r"is encrypted, password.*Unpack it yourself"):
        unpack_zip(tmp_path / "a.zip", tmp_path / "unpacked")


@pytest.mark.parametrize("name", ["../seq_000001.jpg", "/tmp/seq_000001.jpg", "a\\..\\..\\x.jpg"])
def test_a_zip_with_paths_outside_its_folder_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "mall.zip", "w") as file:
        file.writestr(name, b"x")
    with pytest.raises(UserError, match=r"member .* would be unpacked outside the folder"):
        unpack_zip(tmp_path / "mall.zip", tmp_path / "unpacked")
    assert [path.name for path in tmp_path.iterdir()] == ["mall.zip"]


def test_only_what_is_needed_is_unpacked(source, tmp_path, monkeypatch):
    authors_labels(source)
    (source / "images.npy").write_bytes(bytes(5000))
    archive = zipped(source, tmp_path / "mall.zip")
    unpack_zip(archive, tmp_path / "unpacked")
    assert not list((tmp_path / "unpacked").rglob("images.npy"))
    monkeypatch.setattr(zip_archive, "MAX_UNPACKED", 1000)
    with pytest.raises(UserError, match=r"unpacks to [\d,]+ bytes, more than 1,000"):
        unpack_zip(archive, tmp_path / "again")


def test_a_broken_zip_is_one_line(tmp_path):
    (tmp_path / "mall.zip").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match=r"mall.zip: cannot be unpacked"):
        unpack_zip(tmp_path / "mall.zip", tmp_path / "unpacked")
