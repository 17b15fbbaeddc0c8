"""The file is as datumaro 1.13 exports it; pycocotools 2.0 loads it."""

import json
import zipfile

import pytest

from llava_dvc.data.imports.mall import default_messages
from tests.data.imports.formats.conftest import picture


def annotation(key, image, category, bbox, **more):
    area = bbox[2] * bbox[3]
    return {
        **{"id": key, "image_id": image, "category_id": category, "segmentation": []},
        **{"area": area, "bbox": bbox, "iscrowd": 0},
        **more,
    }


def coco():
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "description": "", "version": "", "year": ""},
        "categories": [
            {"id": 1, "name": "person", "supercategory": ""},
            {"id": 2, "name": "car", "supercategory": ""},
        ],
        "images": [
            {"id": 2, "width": 64, "height": 48, "file_name": "a1.jpg", "license": 0},
            {"id": 3, "width": 64, "height": 48, "file_name": "a2.jpg", "license": 0},
        ],
        "annotations": [
            annotation(1, 2, 1, [10.0, 4.0, 8.0, 20.0]),
            annotation(2, 2, 1, [30.0, 8.0, 10.0, 30.0], attributes={"occluded": True}),
            annotation(3, 2, 2, [1.0, 1.0, 5.0, 5.0]),
            annotation(4, 3, 1, [20.0, -10.0, 10.0, 20.0]),
        ],
    }


RESULT = {"a1.jpg": (2, [(14, 6), (35, 11)]), "a2.jpg": (1, [(25, 1)])}
"""By hand: the middle of a box that is cut to its picture, a tenth below its upper edge."""


@pytest.fixture
def write(source):
    for name in ("a1.jpg", "a2.jpg"):
        picture(source / "images" / "train" / name)

    def write_json(value, name="instances_train.json"):
        path = source / "annotations" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        return path

    return write_json


@pytest.mark.parametrize("form", ["folder", "zip", "file"])
def test_the_middle_of_a_boxs_upper_part_is_the_point(write, source, load, tmp_path, form):
    path = write(coco())
    write("{}", "captions_train.json")
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "coco.zip", "w") as file:
            for member in source.rglob("*.*"):
                file.write(member, member.relative_to(source))
    given = {"folder": source, "zip": tmp_path / "coco.zip", "file": path}[form]
    assert load(given, frames=source / "images" if form == "file" else None) == RESULT
    assert "Counted is person. Not counted: car.\n" in load.lines
    assert load.lines[-1].startswith("Pictures: 2, of which show nobody: 0. People: 3, from 1 to 2")


def test_boxes_of_heads_give_their_middle(write, load):
    value = coco()
    value["categories"][0]["name"] = "head"
    write(value)
    assert load()["a1.jpg"] == (2, [(14, 14), (35, 23)])


def test_visible_keypoints_of_the_head_give_the_point(write, load):
    value = coco()
    names = ["nose", "left_eye", "left_forearm", "left_ear"]
    value["categories"][0] |= {"keypoints": names, "skeleton": []}
    first, second = value["annotations"][:2]
    first["keypoints"] = [12, 6, 2, 14, 4, 1, 40, 40, 2, 0, 0, 0]  # the ear is not labelled
    second["keypoints"] = [0, 0, 0, 0, 0, 0, 31, 20, 2, 0, 0, 0]
    write(value)
    assert load()["a1.jpg"] == (2, [(13, 5), (35, 11)])


def test_points_alone_are_taken(write, load):
    value = coco()
    value["categories"][0] |= {"keypoints": ["point"], "skeleton": []}
    for entry in value["annotations"][:2]:
        entry["keypoints"] = [*entry.pop("bbox")[:2], 2]
    write(value)
    assert load()["a1.jpg"] == (2, [(10, 4), (30, 8)])


def test_a_crowd_is_refused_by_name_or_ignored(write, load, refuse):
    value = coco()
    value["annotations"][1]["iscrowd"] = 1
    write(value)
    text = refuse()
    assert "instances_train.json: a1.jpg: 1 of its people are a crowd of unknown number" in text
    assert load(ignore_crowds=True)["a1.jpg"] == (1, [(14, 6)])


def test_a_picture_without_annotation_is_asked_for(write, load, refuse):
    value = coco()
    del value["annotations"][3]
    write(value)
    assert "1 picture has no annotation, such as a2.jpg. Add --empty zero if nobody" in refuse()
    assert load(empty="zero")["a2.jpg"] == (0, [])
    assert list(load(empty="skip")) == ["a1.jpg"]


def test_other_categories_need_a_choice(write, load, refuse):
    value = coco()
    value["categories"][0]["name"] = "rider"
    write(value)
    assert "has the categories car, rider. Say which of them to count: --category" in refuse()
    assert "has no category 'bus'. It has: car, rider. Correct" in refuse(categories=["bus"])
    assert load(categories=["Car"])["a1.jpg"] == (1, [(3.5, 1.5)])
    assert load(categories=["car", "rider"])["a1.jpg"][0] == 3


def test_two_splits_become_one_data_set(write, source, load):
    value = coco()
    picture(source / "images" / "val" / "a1.jpg", 99)
    value["images"][0]["file_name"] = "train/a1.jpg"
    write(value)
    value["images"] = [value["images"][0] | {"file_name": "val/a1.jpg"}]
    value["annotations"] = value["annotations"][:1]
    write(value, "instances_val.json")
    found = {name: count for name, (count, _) in load().items()}
    assert found == {"train/a1.jpg": 2, "train/a2.jpg": 1, "val/a1.jpg": 1}


def test_of_cocos_own_files_only_the_instances_are_read(write, load):
    write(coco())
    write(coco(), "person_keypoints_train.json")
    assert load() == RESULT


def test_frames_of_an_earlier_import_are_not_taken_for_new_ones(write, load, source, tmp_path):
    write(coco()).rename(tmp_path / "export.json")
    assert load(tmp_path / "export.json") == RESULT
    assert load(tmp_path / "export.json") == RESULT


@pytest.mark.parametrize("form", ["folder", "file"])
def test_questions_come_from_the_folder_or_are_the_default(write, load, source, tmp_path, form):
    path = write(coco()).rename(source / "export.json")
    question = default_messages().splitlines()[3]
    (source / "messages.txt").write_text(question, encoding="utf-8")
    load(source if form == "folder" else path, frames=source)
    text = (tmp_path / "data" / "messages.txt").read_text(encoding="utf-8")
    assert text == (question if form == "folder" else default_messages())


def test_our_own_form_needs_no_other_command(load, source, tmp_path):
    picture(source / "frames" / "a.jpg")
    (source / "labels.csv").write_text("frame,count\na.jpg,3\n")
    assert load() == load(source / "labels.csv") == load(format="mall") == {"a.jpg": (3, None)}


def test_two_formats_in_one_folder_need_a_choice(write, load, refuse, source):
    write(coco())
    (source / "classes.txt").write_text("person\n")
    (source / "images" / "train" / "a1.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    text = "has annotations in several formats: coco (instances_train.json) and yolo (classes.txt)."
    assert text in refuse()
    assert load(format="coco") == RESULT
    assert load(format="yolo", empty="skip") == {"a1.jpg": (1, [(32, 14.4)])}


def test_a_link_out_of_the_source_is_a_problem_among_others(write, source, refuse, tmp_path):
    value = coco()
    value["images"].append({"id": 9, "file_name": "gone.jpg"})
    write(value)
    (source / "images" / "train" / "a2.jpg").rename(tmp_path / "a2.jpg")
    (source / "images" / "train" / "a2.jpg").symlink_to(tmp_path / "a2.jpg")
    text = refuse()
    assert text.startswith("2 problems: 1 missing, 1 link\n")
    assert "which is outside" in text


def test_equal_pictures_are_refused(write, source, refuse):
    write(coco())
    first, second = sorted((source / "images" / "train").iterdir())
    second.write_bytes(first.read_bytes())
    assert "is the same picture as" in refuse()
    assert "their counts are 2 and 1. Remove one with its annotation." in refuse()


def changed(change):
    value = coco()
    change(value)
    return value


BAD = {
    "not JSON": ("{", "is not valid JSON"),
    "deep": ("[" * 100_000, "is nested too deeply"),
    "a list": ("[]", "the file is '[]', expected an object"),
    "no images": (changed(lambda v: v.pop("images")), "`images` is 'None', expected a list"),
    "an entry": (changed(lambda v: v["images"].append(3)), r"images[2]: the entry is '3', expec"),
    "no name": (changed(lambda v: v["images"][0].pop("file_name")), "file_name is 'None'"),
    "same id": (changed(lambda v: v["images"][1].update(id=2)), "id is 2 as of another image"),
    "image_id": (changed(lambda v: v["annotations"][0].update(image_id=9)), "image_id is 9, which"),
    "category": (changed(lambda v: v["annotations"][0].update(category_id=9)), "category_id is 9"),
    "NaN": (changed(lambda v: v["annotations"][0].update(bbox=[1, 2, 3, float("nan")])), "'nan'"),
    "3 numbers": (changed(lambda v: v["annotations"][0].update(bbox=[1, 2, 3])), "bbox has 3 num"),
    "no area": (changed(lambda v: v["annotations"][0].update(bbox=[1, 2, 0, 4])), "no area"),
    "outside": (
        changed(lambda v: v["annotations"][0].update(bbox=[70, 2, 9, 9])),
        "a1.jpg: a mark at (70, 2) lies outside its 64x48 pixels",
    ),
    "twice": (
        changed(lambda v: v["annotations"][1].update(bbox=[10, 4, 8, 20])),
        "a1.jpg: two equal marks are at (10, 4). Delete one",
    ),
    "keypoints": (
        changed(lambda v: v["annotations"][0].update(keypoints=[1, 2])),
        "keypoints has 2 numbers",
    ),
    "crowd": (changed(lambda v: v["annotations"][0].update(iscrowd=2)), "iscrowd is '2', expected"),
    "size": (
        changed(lambda v: v["images"][0].update(width=640, height=480)),
        "a1.jpg: the annotation is for 640x480 pixels, but the picture has 64x48",
    ),
    "missing": (
        changed(lambda v: v["images"][0].update(file_name="b.jpg")),
        "picture b.jpg is not among the 2 pictures",
    ),
    "one picture": (
        changed(lambda v: v["images"][1].update(file_name="a1.jpg")),
        "is annotated here and in",
    ),
    "no picture": (changed(lambda v: v.update(images=[], annotations=[])), "no frame is left"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_nothing_is_written(write, refuse, case):
    value, expected = BAD[case]
    write(value)
    text = refuse(format="coco")
    assert expected in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("name", ["a.json", "a.xml"])
def test_a_file_that_cannot_be_recognised_because_it_is_broken_says_so(source, refuse, name):
    (source / name).write_text("{")
    assert f"{name}: is not valid {name[2:].upper()} (" in refuse(source / name)


def test_a_folder_without_annotations_says_which_formats_there_are(source, refuse):
    picture(source / "a.jpg")
    said = refuse()
    assert "1 pictures and 0 other files, but no annotations in a known format" in said
    assert "Write a labels.csv (docs/data.md), or name the format with --format (coco, " in said


def test_all_problems_come_at_once(write, source, refuse):
    value = coco()
    value["annotations"][0]["bbox"] = [1]
    value["images"].append({"id": 9, "file_name": "gone.jpg"})
    (source / "images" / "train" / "a2.jpg").write_bytes(b"no picture")
    write(value)
    text = refuse()
    assert text.startswith("3 problems: 1 annotation, 1 missing, 1 no picture\n")
