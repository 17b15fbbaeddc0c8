import logging
import os
import struct
import tracemalloc
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports import count_matrix, import_folder, mall, pairing
from llava_dvc.data.labels import read_labels, write_labels
from llava_dvc.data.messages import read_conversations
from llava_dvc.errors import UserError

COUNTS = [29, 30, 35, 31]


@pytest.fixture
def source(tmp_path):
    """Four frames without labels, one folder deep, as the authors' zip unpacks."""
    folder = tmp_path / "mall_dataset"
    for number in range(1, 5):
        picture(folder / "frames" / f"seq_{number:06d}.jpg", shade=40 * number)
    return folder


@pytest.fixture
def data(tmp_path):
    return tmp_path / "data"


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (32, 24), shade).save(path)


def authors_labels(source: Path, counts=COUNTS, heads=None) -> None:
    heads = heads or [np.zeros((int(count), 2)) for count in counts]
    cells = np.array([{"loc": np.array(loc, float)} for loc in heads], dtype=object)
    counts = [len(loc) for loc in heads] if counts is COUNTS else counts
    matrix = {"frame": cells[None], "count": np.array(counts, dtype=np.float64)[:, None]}
    savemat(source / "mall_gt.mat", matrix)


def copys_labels(source: Path, counts=COUNTS) -> None:
    write_labels(source / "labels.csv", dict(enumerate(counts, start=1)))


def zipped(folder: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder.parent))
    return archive


# --- the import -------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [authors_labels, copys_labels])
@pytest.mark.parametrize("form", ["folder", "parent", "zip"])
def test_frames_and_labels_arrive(source, data, tmp_path, labels, form):
    labels(source)
    given = {"folder": source, "parent": tmp_path}.get(form)
    given = given or zipped(source, tmp_path / "mall.zip")
    assert mall.import_mall(given, data) == 4
    frames = read_frames(data, exclude=())
    assert [frame.count for frame in frames] == COUNTS
    original = source / "frames" / "seq_000003.jpg"
    assert frames[2].path.read_bytes() == original.read_bytes()
    found = {"labels.csv", "messages.txt", *(["points.csv"] if labels is authors_labels else [])}
    assert {path.name for path in data.iterdir()} == {"frames", *found}


def test_head_points_of_the_authors_arrive(source, data):
    authors_labels(source, heads=[[[-1, 3]], [[33, 24.5], [2, 2]], np.zeros((0, 2)), [[1.25, 7]]])
    mall.import_mall(source, data)
    table = "id,x,y\n1,0,3\n2,32,24\n2,2,2\n4,1.25,7\n"
    assert (data / "points.csv").read_text() == table


def test_points_beside_the_labels_arrive_and_are_replaced(source, data):
    copys_labels(source, [1, 0, 0, 0])
    (source / "points.csv").write_text("id;x;y\n1;2;3\n")
    mall.import_mall(source, data)
    assert read_frames(data, exclude=())[0].points == [(2.0, 3.0)]
    (source / "points.csv").unlink()
    mall.import_mall(source, data)
    assert not (data / "points.csv").exists()


def test_a_contradiction_in_the_matrix_is_named(source, data):
    heads = np.array([{"loc": np.ones((n, 2))} for n in (3, 1, 1, 1)], dtype=object)
    savemat(source / "mall_gt.mat", {"frame": heads[None], "count": np.ones((4, 1))})
    with pytest.raises(UserError, match=r"mall_gt.mat: frame 1 has 3 head points, but its count"):
        mall.import_mall(source, data)


def test_frames_nested_twice_arrive(source, data):
    copys_labels(source)
    (source / "frames").rename(source / "inner")
    (source / "frames").mkdir()
    (source / "inner").rename(source / "frames" / "frames")
    assert mall.import_mall(source, data) == 4


def test_default_messages_are_six_phrasings(source, data):
    authors_labels(source)
    mall.import_mall(source, data)
    assert (data / "messages.txt").read_text(encoding="utf-8") == mall.default_messages()
    conversations = read_conversations(data)
    assert len({conversation.question for conversation in conversations}) == 6
    english = "How many people are in this image? Answer with a single number."
    assert conversations[0].question == english


def test_frames_and_labels_are_replaced_but_messages_are_kept(source, data):
    authors_labels(source)
    picture(data / "frames" / "seq_000009.jpg", shade=9)
    copys_labels(data, [9])
    phrasing = mall.default_messages().splitlines()[3]
    (data / "messages.txt").write_text(phrasing, encoding="utf-8")
    (data / "zones.json").write_text("{}")
    mall.import_mall(source, data)
    assert len(read_frames(data, exclude=())) == 4
    assert (data / "zones.json").read_text() == "{}"
    assert (data / "messages.txt").read_text(encoding="utf-8") == phrasing


def test_other_files_are_not_deleted(source, data):
    authors_labels(source)
    data.mkdir()
    (data / "notes.txt").write_text("mine")
    with pytest.raises(
        UserError, match=r"notes.txt: would be lost, because the import replaces .*data. Move"
    ):
        mall.import_mall(source, data)


@pytest.mark.parametrize("step", ["check_staged", "replace_data"])
def test_a_failure_leaves_data_as_it_was(source, data, tmp_path, monkeypatch, step):
    authors_labels(source)
    mall.import_mall(source, data)
    before = {path: path.stat().st_ino for path in data.rglob("*")}

    def fail(*args, **kwargs):
        raise UserError("no")

    monkeypatch.setattr(mall, step, fail)
    with pytest.raises(UserError, match="no"):
        mall.import_mall(source, data)
    assert {path: path.stat().st_ino for path in data.rglob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "mall_dataset"]


def test_data_comes_back_when_the_last_step_fails(tmp_path):
    old = tmp_path / "data"
    (old / "frames").mkdir(parents=True)
    with pytest.raises(OSError, match="missing"):
        import_folder.replace_data(old, tmp_path / "missing", tmp_path)
    assert (old / "frames").is_dir()


@pytest.mark.parametrize("form", ["folder", "zip"])
@pytest.mark.parametrize(
    "name", ["labels.csv", "mall_gt.mat", "messages.txt", "frames/seq_000001.jpg"]
)
def test_a_folder_with_the_name_of_a_file_is_refused(source, data, tmp_path, name, form):
    copys_labels(source)
    (source / name).unlink(missing_ok=True)
    picture(source / name / "inner.jpg", shade=9)
    given = zipped(source, tmp_path / "mall.zip") if form == "zip" else source
    with pytest.raises(UserError, match=rf"{name}: is not a file. Delete it, or put the file in"):
        mall.import_mall(given, data)


def test_a_pipe_with_the_name_of_a_file_is_refused(source, data):
    os.mkfifo(source / "labels.csv")
    with pytest.raises(UserError, match=r"labels.csv: is not a file. Delete it, or put"):
        mall.import_mall(source, data)


# --- labels of other images -------------------------------------------------------------------


def test_two_label_files_that_agree_are_fine(source, data):
    authors_labels(source)
    copys_labels(source)
    assert mall.import_mall(source, data) == 4


def test_two_label_files_that_differ_are_refused(source, data):
    authors_labels(source)
    copys_labels(source, [35, 30, 35, 44])
    reason = (
        r"mall_dataset: labels.csv and mall_gt.mat differ on 2 frames \(frame 1: 35 and 29\), as "
        r"in a popular copy of Mall that renumbers the frames. Remove mall_gt.mat if"
    )
    with pytest.raises(UserError, match=reason) as caught:
        mall.import_mall(source, data)
    assert "\n" not in str(caught.value)
    assert not data.exists()


def test_a_known_frame_identifies_the_copy(source, data, monkeypatch, caplog):
    first = source / "frames" / "seq_000001.jpg"
    monkeypatch.setattr(pairing, "COPY_FIRST", pairing.tail_digest(first))
    authors_labels(source)
    with pytest.raises(
        UserError, match=r"dataset/frames/seq_000001.jpg: is the authors' frame 3. .* renumbered"
    ):
        mall.import_mall(source, data)
    (source / "mall_gt.mat").unlink()
    copys_labels(source)
    with caplog.at_level(logging.WARNING):
        assert mall.import_mall(source, data) == 4
    assert "not numbered in order of time" in caplog.text


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """360 frames of a crowd that comes and goes, and its counts."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("video")
    counts = np.clip(20 + np.cumsum(rng.integers(-2, 3, size=360)), 3, 40)
    hall = rng.integers(90, 130, size=(60, 80))
    places = rng.permutation(12 * 16)
    for number, count in enumerate(counts, start=1):
        frame = hall + rng.normal(0, 4, hall.shape)
        for place in places[:count]:
            y, x = divmod(int(place), 16)
            frame[5 * y : 5 * y + 4, 5 * x : 5 * x + 3] += 60
        Image.fromarray(frame.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
    return [folder / f"{number}.jpg" for number in range(1, 361)], counts.tolist()


def renumbered(items):
    """As the popular copy does: a sorted sixth first, then the rest in order."""
    low = np.sort(np.random.default_rng(1).choice(len(items), len(items) // 6, replace=False))
    rest = np.setdiff1d(np.arange(len(items)), low)
    return [items[i] for i in [*low, *rest]]


def test_pairing_score_detects_a_wrong_pairing(video):
    paths, counts = video
    assert pairing.pairing_score(paths, counts) > 0.8
    assert pairing.pairing_score(renumbered(paths), renumbered(counts)) > 0.8
    assert abs(pairing.pairing_score(renumbered(paths), counts)) < 0.3
    assert abs(pairing.pairing_score(paths, renumbered(counts))) < 0.3
    assert pairing.pairing_score(paths, [7] * 360) == 0


@pytest.mark.parametrize(
    ("name", "labels"), [("mall_gt.mat", authors_labels), ("labels.csv", copys_labels)]
)
def test_labels_of_other_images_are_refused(video, tmp_path, data, name, labels):
    paths, counts = video
    folder = tmp_path / "renumbered"
    (folder / "frames").mkdir(parents=True)
    for number, path in enumerate(renumbered(paths), start=1):
        (folder / "frames" / f"seq_{number:06d}.jpg").write_bytes(path.read_bytes())
    labels(folder, counts)
    with pytest.raises(
        UserError, match=f"renumbered: the counts in {name} do not follow the images"
    ) as no:
        mall.import_mall(folder, data)
    assert f"Remove {name}" in str(no.value)
    assert "\n" not in str(no.value)
    assert not data.exists()

    labels(folder, renumbered(counts))
    assert mall.import_mall(folder, data) == 360


# --- what cannot be read ----------------------------------------------------------------------


def test_frames_and_labels_must_match(source, data):
    authors_labels(source, [*COUNTS, 20])
    reason = "4 frames and 5 labels do not match: number 5 has only a label. .* a label: 1"
    with pytest.raises(UserError, match=reason):
        mall.import_mall(source, data)


def test_a_missing_part_of_the_source_is_named(source, data, tmp_path):
    with pytest.raises(UserError, match=r"mall_dataset: has neither mall_gt.mat nor labels.csv"):
        mall.import_mall(source, data)
    with pytest.raises(UserError, match=r"nowhere: no such folder or .zip file"):
        mall.import_mall(tmp_path / "nowhere", data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: has no frames such as frames/seq_000001.jpg"):
        mall.import_mall(tmp_path / "empty", data)


# --- frames with names or cameras of their own --------------------------------------------------


def own_frames(folder: Path, names: list[str], header: str = "frame,count", more: str = "") -> Path:
    """Frames with these names and a labels.csv, in which frame n has n people."""
    for number, name in enumerate(names):
        picture(folder / name, shade=20 * number)
    lines = [header, *(f"{name},{number}{more}" for number, name in enumerate(names))]
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


NAMES = ["2024-05-01 10:00:00.jpg", "cam2/첫 번째.jpg", "cam2/b.png", "été.jpg"]


def names_and_counts(data: Path) -> dict[str, int]:
    return {frame.name: frame.count for frame in read_frames(data, exclude=())}


@pytest.mark.parametrize("place", ["frames", "images", ".", "deep/er"])
@pytest.mark.parametrize("form", ["folder", "parent", "zip"])
def test_frames_with_names_of_their_own_arrive(tmp_path, data, place, form):
    folder = own_frames(tmp_path / "in" / "mine" / place, NAMES)
    (folder / "labels.csv").rename(tmp_path / "in" / "mine" / "labels.csv")
    (tmp_path / "in" / "mine" / ".DS_Store").write_bytes(b"x")
    given = {"folder": tmp_path / "in" / "mine", "parent": tmp_path / "in"}.get(form)
    given = given or zipped(tmp_path / "in" / "mine", tmp_path / "in.zip")
    assert mall.import_mall(given, data) == 4
    assert names_and_counts(data) == {name: n for n, name in enumerate(NAMES)}
    assert (data / "messages.txt").read_text(encoding="utf-8") == mall.default_messages()


@pytest.mark.parametrize(
    ("header", "names"),
    [
        ("frame,count,camera", ["cam1/1.jpg", "cam2/1.jpg"]),
        ("frame,count,camera", ["seq_000001.jpg", "seq_000002.jpg"]),
    ],
)
def test_cameras_arrive(tmp_path, data, header, names):
    folder = own_frames(tmp_path / "in" / "frames", names, header, ",door")
    (folder / "labels.csv").rename(tmp_path / "in" / "labels.csv")
    assert mall.import_mall(tmp_path / "in", data) == 2
    assert [frame.camera for frame in read_frames(data, ())] == ["door", "door"]
    assert (data / "labels.csv").read_bytes() == (tmp_path / "in" / "labels.csv").read_bytes()


def test_ids_with_cameras_arrive(source, data):
    (source / "labels.csv").write_text("id,camera,count\n1,a,5\n2,b,6\n3,a,7\n4,b,8\n")
    assert mall.import_mall(source, data) == 4
    assert [(x.camera, x.count) for x in read_frames(data, ())][:2] == [("a", 5), ("b", 6)]


def test_many_named_frames_are_not_taken_for_mall(video, tmp_path, data):
    paths, _ = video
    (tmp_path / "in").mkdir()
    for path in paths[:310]:
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    lines = [f"{path.name},{7 * int(path.stem) % 13}" for path in paths[:310]]
    (tmp_path / "in" / "labels.csv").write_text("\n".join(["frame,count", *lines]))
    assert mall.import_mall(tmp_path / "in", data) == 310


def test_accents_in_another_form_are_the_same_name(tmp_path, data):
    names = ["한국.jpg", "été.jpg"]
    folder = own_frames(tmp_path / "in", names)
    for name in names:
        (folder / name).rename(folder / unicodedata.normalize("NFD", name))
    assert mall.import_mall(folder, data) == 2
    assert set(names_and_counts(data)) == set(names)


def test_the_sources_messages_arrive(tmp_path, data):
    folder = own_frames(tmp_path / "in", ["a.jpg"])
    line = mall.default_messages().splitlines()[3]
    (folder / "messages.txt").write_text(line, encoding="utf-8")
    mall.import_mall(folder, data)
    assert (data / "messages.txt").read_text(encoding="utf-8") == line
    (folder / "messages.txt").write_text("no JSON", encoding="utf-8")
    (data / "messages.txt").unlink()
    with pytest.raises(UserError, match=r"in/messages.txt:1: not JSON"):
        mall.import_mall(folder, data)


def test_named_frames_and_labels_must_match(tmp_path, data):
    folder = own_frames(tmp_path / "in", ["a.jpg", "b.jpg"])
    picture(folder / "c.jpg", shade=99)
    with pytest.raises(UserError, match=r"in/frames/c.jpg: has no label in .*in/labels.csv"):
        mall.import_mall(folder, data)
    (folder / "c.jpg").unlink()
    (folder / "b.jpg").unlink()
    with pytest.raises(UserError, match=r"labels.csv:3: frame .*b.jpg does not exist"):
        mall.import_mall(folder, data)
    (folder / "a.jpg").rename(folder / "x.jpg")
    reason = r"in: has none of the 2 frames in labels.csv, such as a.jpg. Check the path"
    with pytest.raises(UserError, match=reason):
        mall.import_mall(folder, data)
    for place in ("one", "two"):
        picture(folder / place / "a.jpg", shade=1)
    with pytest.raises(UserError, match=r"in: has frames in .*in/one and in .*in/two. Keep one"):
        mall.import_mall(folder, data)
    assert not data.exists()


def test_two_frame_folders_or_label_files_are_refused(source, data):
    authors_labels(source)
    picture(source / "more" / "seq_000001.jpg", shade=1)
    with pytest.raises(UserError, match=r"frames in .*frames and in .*more. Keep one"):
        mall.import_mall(source, data)
    (source / "more" / "seq_000001.jpg").unlink()
    authors_labels(source / "more")
    with pytest.raises(UserError, match=r"has .*mall_gt.mat and .*mall_gt.mat. Keep one"):
        mall.import_mall(source, data)


@pytest.mark.parametrize(
    "counts", [[29, -1, 35, 31], [29, 0.5, 35, 31], [29, np.nan, 35, 31], [29, np.inf, 3, 1]]
)
def test_a_bad_count_in_the_matrix_is_named(source, data, counts):
    savemat(source / "mall_gt.mat", {"count": counts})
    with pytest.raises(UserError, match=r"mall_gt.mat: count of frame 2 is .*whole number >= 0"):
        mall.import_mall(source, data)


def test_a_broken_matrix_is_one_line(source, data):
    savemat(source / "mall_gt.mat", {"other": [1]})
    with pytest.raises(UserError, match=r"mall_gt.mat: `count` cannot be read"):
        mall.import_mall(source, data)
    (source / "mall_gt.mat").write_bytes(b"no matrix")
    with pytest.raises(UserError, match=r"mall_gt.mat: `count` cannot be read"):
        mall.import_mall(source, data)


def test_errors_name_the_source_not_a_temporary_folder(source, data, tmp_path):
    copys_labels(source)
    (source / "frames" / "seq_000002.jpg").write_bytes(b"no picture")
    archive = zipped(source, tmp_path / "mall.zip")
    with pytest.raises(
        UserError, match=r"mall.zip/frames/seq_000002.jpg is not in a known image format"
    ) as caught:
        mall.import_mall(archive, data)
    assert "import-mall-" not in str(caught.value)


# --- dvc add ----------------------------------------------------------------------------------


def test_dvc_add_drops_the_samples_remote(data, monkeypatch):
    record = data.with_name("data.dvc")
    record.write_text("outs:\n- path: data\n  remote: sample\n")
    ran = []

    def dvc(command, cwd, **kwargs):
        ran.append((command[-3:], cwd, record.exists()))
        return mall.subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(mall.subprocess, "run", dvc)
    mall.dvc_add(data)
    assert ran == [(["dvc", "add", "data"], data.parent, False)]


def test_a_failing_dvc_add_is_explained_and_undone(data):
    data.mkdir()
    record = data.with_name("data.dvc")
    record.write_text("outs:\n- path: data\n")
    with pytest.raises(UserError, match=r"`dvc add data` failed: ERROR: .*not inside of a DVC"):
        mall.dvc_add(data)
    assert record.read_text() == "outs:\n- path: data\n"


def test_labels_written_are_labels_read(source, data):
    authors_labels(source)
    mall.import_mall(source, data)
    assert [label.count for label in read_labels(data / "labels.csv")] == COUNTS


# --- files of strangers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "reason"),
    [
        ({"count": np.zeros((30_000, 1)), "frame": np.zeros(300_000)}, "the file unpacks to more"),
        ({"count": np.zeros((1, 30_000))}, "it has 30,000 values, more than 20,000"),
        ({"count": np.array([{"a": 1}] * 4, dtype=object)}, "it is of the class cell"),
        ({"count": "1234"}, "it is of the class char"),
        ({"counts": [1, 2]}, "the file has 0 variables of this name"),
    ],
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_huge_or_odd_matrix_is_refused(tmp_path, monkeypatch, matrix, reason, packed):
    monkeypatch.setattr(count_matrix, "MAX_BYTES", 2_000_000)
    monkeypatch.setattr(count_matrix, "MAX_FRAMES", 20_000)
    savemat(tmp_path / "mall_gt.mat", matrix, do_compression=packed)
    with pytest.raises(UserError) as caught:
        count_matrix.read_matrix_counts(tmp_path / "mall_gt.mat")
    assert str(caught.value).startswith(f"{tmp_path}/mall_gt.mat: `count` cannot be read ({reason}")
    assert "\n" not in str(caught.value)


def test_a_small_matrix_that_unpacks_to_a_huge_one_needs_no_memory(tmp_path):
    path = tmp_path / "mall_gt.mat"
    savemat(path, {"frame": np.zeros(10), "count": np.ones((3, 1))}, do_compression=True)
    zeros = zlib.compressobj()
    packed = b"".join([*(zeros.compress(bytes(2**24)) for _ in range(10)), zeros.flush()])
    with path.open("ab") as file:
        file.write(struct.pack("<II", 15, len(packed)) + packed)
    tracemalloc.start()
    with pytest.raises(UserError, match=r"\(the file unpacks to more than 134,217,728 bytes\)"):
        count_matrix.read_matrix_counts(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000


@pytest.mark.parametrize("name", ["labels.csv", "mall_gt.mat", "messages.txt"])
def test_a_pipe_is_not_read(source, data, name):
    copys_labels(source)
    (source / name).unlink(missing_ok=True)
    os.mkfifo(source / name)
    with pytest.raises(UserError, match=rf"{name}: is not a file\. Delete it"):
        mall.import_mall(source, data)


def test_a_pipe_is_no_frame(source, data):
    copys_labels(source)
    (source / "frames" / "seq_000002.jpg").unlink()
    os.mkfifo(source / "frames" / "seq_000002.jpg")
    with pytest.raises(UserError, match=r"seq_000002\.jpg: is not a file\."):
        mall.import_mall(source, data)
    (source / "labels.csv").write_text("frame,count\na.jpg,3\n")
    picture(source / "a.jpg", 9)
    (source / "frames" / "seq_000002.jpg").rename(source / "b.jpg")
    with pytest.raises(UserError, match=r"b\.jpg: is not a regular file\."):
        mall.import_mall(source, data)


@pytest.mark.parametrize(
    "name", ["labels.csv", "messages.txt", "mall_gt.mat", "frames/seq_000002.jpg"]
)
@pytest.mark.parametrize("own_names", [False, True])
def test_a_link_out_of_the_folder_is_not_followed(source, data, tmp_path, name, own_names):
    copys_labels(source)
    if own_names:
        rows = [f"seq_{number:06d}.jpg,3,hall\n" for number in range(1, 5)]
        (source / "labels.csv").write_text("frame,count,camera\n" + "".join(rows))
    outside = tmp_path / "secret"
    if (source / name).exists():
        (source / name).rename(outside)
    outside.touch()
    (source / name).symlink_to(outside)
    with pytest.raises(UserError) as caught:
        mall.import_mall(source, data)
    assert str(caught.value).startswith(
        f"{source / name}: is a link to {outside}, which is outside {source}. Replace the link"
    )
    assert not data.exists()


def test_huge_tables_are_not_read(source, data):
    copys_labels(source)
    os.truncate(source / "labels.csv", 2**34)
    with pytest.raises(UserError, match=r"labels.csv: has 17,179,869,184 bytes, more than 268,43"):
        mall.import_mall(source, data)
    copys_labels(source)
    picture(source / "frames" / "seq_000005.jpg", 9)
    os.truncate(source / "frames" / "seq_000005.jpg", 2**34)
    with pytest.raises(
        UserError, match=r"seq_000005.jpg: has 17,179,869,184 bytes, more than 268,"
    ):
        mall.import_mall(source, data)
    (source / "frames" / "seq_000005.jpg").unlink()
    with (source / "messages.txt").open("w") as file:
        file.truncate(2**24 + 1)
    with pytest.raises(UserError, match=r"messages.txt: has 16,777,217 bytes, more than 16,7"):
        mall.import_mall(source, data)
