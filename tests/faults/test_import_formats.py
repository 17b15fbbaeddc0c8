"""A data set of each format is imported, and an adapter learns from it for one epoch.

Each has ten pictures, with people where `people_of` says. The writers put them into files in the
form of the tests in tests/data/imports, which is that of the real tools and authors.
"""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from scipy.io import savemat

from llava_dvc.data.frames import read_frames
from llava_dvc.data.imports.annotations import ImportChoices
from llava_dvc.data.imports.import_source import ImportPlan, import_source
from llava_dvc.data.messages import read_conversations
from llava_dvc.data.prepare import build_dataset, frame_numbers
from llava_dvc.data.split import split_frames
from tests.conftest import frame
from tests.data.imports.formats.test_coco import annotation as coco_box
from tests.data.imports.formats.test_coco import coco
from tests.data.imports.formats.test_crowd_matrix import write_info
from tests.data.imports.formats.test_cvat import META
from tests.data.imports.formats.test_label_studio import annotation, number, rectangle, task
from tests.data.imports.test_mall import authors_labels
from tests.training.test_count_trainer import tune

WIDTH, HEIGHT, PICTURES = 64, 48, 10
Box = tuple[int, int, int, int]
"""Left, top, width and height in pixels."""
CAR: Box = (50, 30, 10, 8)


def people_of(number: int) -> list[Box]:
    """One to seven people in a row, another number on each picture."""
    return [(2 + 8 * place, 4 + number, 6, 20) for place in range(1 + number * 3 % 7)]


def heads_of(number: int) -> np.ndarray:
    return np.array([(left + 3, top + 2) for left, top, _, _ in people_of(number)], float)


def draw(folder: Path, pattern: str) -> list[str]:
    """Writes the pictures and returns their names."""
    folder.mkdir(parents=True)
    names = [pattern.format(place) for place in range(1, PICTURES + 1)]
    for place, name in enumerate(names, start=1):
        frame(place).save(folder / name)
    return names


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_coco(source: Path) -> dict:
    value = coco() | {"images": [], "annotations": []}
    for key, name in enumerate(draw(source / "images" / "train", "a{}.jpg"), start=1):
        size = {"width": WIDTH, "height": HEIGHT}
        value["images"].append({"id": key, **size, "file_name": name, "license": 0})
        kinds = [*((1, box) for box in people_of(key)), (2, CAR)]
        known = len(value["annotations"])
        value["annotations"] += [
            coco_box(known + place, key, kind, list(map(float, box)))
            for place, (kind, box) in enumerate(kinds, start=1)
        ]
    write(source / "annotations" / "instances_train.json", json.dumps(value))
    return {}


def write_yolo(source: Path) -> dict:
    for key, name in enumerate(draw(source / "images" / "train", "a{}.jpg"), start=1):
        lines = [
            f"{kind} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} "
            f"{w / WIDTH:.6f} {h / HEIGHT:.6f}\n"
            for kind, (x, y, w, h) in [*((0, box) for box in people_of(key)), (1, CAR)]
        ]
        write(source / "labels" / "train" / f"{Path(name).stem}.txt", "".join(lines))
    write(source / "data.yaml", "train: images/train\nnames:\n  0: person\n  1: car\n")
    return {}


def write_voc(source: Path) -> dict:
    for key, name in enumerate(draw(source / "JPEGImages", "a{}.jpg"), start=1):
        objects = "".join(
            f"<object><name>{kind}</name><bndbox><xmin>{x}</xmin><ymin>{y}</ymin>"
            f"<xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
            for kind, (x, y, w, h) in [*(("person", box) for box in people_of(key)), ("car", CAR)]
        )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"
        write(source / "Annotations" / f"{Path(name).stem}.xml", text)
    return {}


def cvat_box(box: Box, attributes: str) -> str:
    x, y, w, h = box
    corners = f'xtl="{x:.2f}" ytl="{y:.2f}" xbr="{x + w:.2f}" ybr="{y + h:.2f}"'
    return f'<box {attributes} occluded="0" {corners} z_order="0"></box>'


def write_cvat_images(source: Path) -> dict:
    shapes = ""
    for key, name in enumerate(draw(source / "images", "a{}.jpg"), start=1):
        boxes = [cvat_box(box, 'label="person"') for box in people_of(key)]
        boxes.append(cvat_box(CAR, 'label="car"'))
        size = f'width="{WIDTH}" height="{HEIGHT}"'
        shapes += f'<image id="{key - 1}" name="{name}" {size}>{"".join(boxes)}</image>'
    write(source / "annotations.xml", f"<annotations>{META}{shapes}</annotations>")
    return {}


def write_cvat_video(source: Path) -> dict:
    """A track for each place in the row. Whoever is not there is outside."""
    draw(source / "images", "frame_{:06d}.png")
    (source / "images" / f"frame_{PICTURES:06d}.png").rename(source / "images/frame_000000.png")
    numbers = [PICTURES, *range(1, PICTURES)]  # CVAT counts from 0
    listed = ""
    for place in range(7):
        boxes = ""
        for at, key in enumerate(numbers):
            there = len(people_of(key)) > place
            box = people_of(key)[place] if there else CAR
            boxes += cvat_box(box, f'frame="{at}" keyframe="1" outside="{int(not there)}"')
        listed += f'<track id="{place}" label="person" source="manual">{boxes}</track>'
    meta = META.replace("<size>5<", f"<size>{PICTURES}<").replace(
        "<stop_frame>4<", f"<stop_frame>{PICTURES - 1}<"
    )
    write(source / "annotations.xml", f"<annotations>{meta}{listed}</annotations>")
    return {}


def write_studio_boxes(source: Path) -> dict:
    tasks = []
    for key, name in enumerate(draw(source / "frames", "a{}.jpg"), start=1):
        boxes = [(*box, "person") for box in people_of(key)] + [(*CAR, "car")]
        shares = [
            rectangle(
                f"r{place}",
                100 * x / WIDTH,
                100 * y / HEIGHT,
                100 * w / WIDTH,
                100 * h / HEIGHT,
                kind,
            )
            for place, (x, y, w, h, kind) in enumerate(boxes)
        ]
        tasks.append(task(key, annotation(*shares), image=f"/data/upload/1/0a1b2c3d-{name}"))
    write(source / "export.json", json.dumps(tasks))
    return {}


def write_studio_numbers(source: Path) -> dict:
    names = draw(source / "frames", "a{}.jpg")
    tasks = [
        task(key, annotation(number(len(people_of(key)))), image=f"/data/upload/1/0a1b2c3d-{name}")
        for key, name in enumerate(names, start=1)
    ]
    write(source / "export.json", json.dumps(tasks))
    return {}


def write_shanghaitech(source: Path) -> dict:
    folder = source / "part_A" / "train_data"
    for key, name in enumerate(draw(folder / "images", "IMG_{}.jpg"), start=1):
        write_info(folder / "ground_truth" / f"GT_{Path(name).stem}.mat", heads_of(key))
    return {}


def write_qnrf(source: Path) -> dict:
    for key, name in enumerate(draw(source / "Train", "img_{:04d}.jpg"), start=1):
        savemat(source / "Train" / f"{Path(name).stem}_ann.mat", {"annPoints": heads_of(key)})
    return {}


def write_jhu(source: Path) -> dict:
    table = ""
    for key, name in enumerate(draw(source / "train" / "images", "{:04d}.jpg"), start=1):
        stem = Path(name).stem
        lines = "".join(f"{x:g} {y:g} 6 6 1 0\n" for x, y in heads_of(key))
        write(source / "train" / "gt" / f"{stem}.txt", lines)
        table += f"{stem},{len(people_of(key))},street,0,0\n"
    write(source / "train" / "image_labels.txt", table)
    return {}


def write_mall(source: Path) -> dict:
    draw(source / "frames", "seq_{:06d}.jpg")
    authors_labels(source, heads=[heads_of(key) for key in range(1, PICTURES + 1)])
    return {}


def write_counts(source: Path) -> dict:
    names = draw(source / "pics", "a{}.jpg")
    counts = [len(people_of(key)) for key in range(1, PICTURES + 1)]
    pandas.DataFrame({"file": names, "people": counts}).to_csv(source / "table.csv")
    return {"columns": {"frame": "file", "count": "people"}}


def write_points(source: Path) -> dict:
    rows = [
        {"file": name, "px": x, "py": y}
        for key, name in enumerate(draw(source / "pics", "a{}.jpg"), start=1)
        for x, y in heads_of(key)
    ]
    pandas.DataFrame(rows).to_csv(source / "table.csv", index=False)
    return {"columns": {"frame": "file", "x": "px", "y": "py"}}


FORMATS = {
    "COCO": write_coco,
    "YOLO": write_yolo,
    "Pascal VOC": write_voc,
    "CVAT, images": write_cvat_images,
    "CVAT, video": write_cvat_video,
    "Label Studio, boxes": write_studio_boxes,
    "Label Studio, numbers": write_studio_numbers,
    "ShanghaiTech": write_shanghaitech,
    "UCF-QNRF": write_qnrf,
    "JHU-CROWD++": write_jhu,
    "Mall": write_mall,
    "CSV of counts": write_counts,
    "CSV of points": write_points,
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_data_set_is_imported_and_learnt_from(tmp_path, cfg, encoder, name):
    choices = ImportChoices(**FORMATS[name](tmp_path / "source"))
    data = tmp_path / "data"
    import_source(ImportPlan(tmp_path / "source", None, None, choices), data, lambda text: None)
    frames = read_frames(data, exclude=())
    found = {picture_number(frame.name): frame.count for frame in frames}
    assert found == {key: len(people_of(key)) for key in range(1, PICTURES + 1)}
    assert len(set(found.values())) == 7

    cameras = [frame.camera for frame in frames]
    split = split_frames(frame_numbers(frames), cameras, cfg.split, cfg.seed)
    rows = build_dataset(frames, read_conversations(data), split, cfg.seed)
    tuned = tune(cfg, encoder, rows["train"], tmp_path / "checkpoints")
    learnt = [weights for key, weights in tuned.weights.items() if "lora_B" in key]
    assert learnt
    assert all(weights.isfinite().all() and weights.any() for weights in learnt)  # they begin at 0


def picture_number(name: str) -> int:
    """CVAT's frame 0 is the last picture."""
    return int(re.findall(r"[0-9]+", name)[-1]) or PICTURES
