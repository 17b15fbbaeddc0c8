"""Labels above evaluate.max_count are known before the first step."""

import sys

import pytest
import yaml

from llava_dvc import cli
from llava_dvc.checks import doctor
from llava_dvc.checks.label_range import check_eval_frames, check_label_range, check_tile_points
from llava_dvc.errors import UserError
from stages import train as stage

FAULT = "evaluate.max_count: is 39, but seq_000003.jpg has 40 people; set it to 40 or more"


@pytest.fixture
def low(cfg):
    """Settings whose max_count is one below the largest label, 40."""
    return cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update={"max_count": 39})})


@pytest.fixture
def prepared(tmp_path, rows):
    def save(**splits):
        for name in ("train", "val", "eval"):
            rows.select(splits.get(name, [0, 1])).save_to_disk(tmp_path / "prepared" / name)
        return tmp_path / "prepared"

    return save


@pytest.mark.parametrize("split", ["train", "val", "eval"])
def test_a_label_above_max_count_is_a_fault(low, cfg, prepared, split):
    folder = prepared(**{split: [2, 3, 4]})
    assert check_label_range(low, folder).fault == FAULT
    check = check_label_range(cfg, folder)
    assert (check.fault, check.found) == (None, "40 people at most, evaluate.max_count is 60")


@pytest.fixture
def refusal(monkeypatch, tmp_path):
    """The error of the train stage on a prepared folder, which it raises before it loads."""

    def train(settings, folder):
        (folder / "report.json").write_text('{"data_md5": "0"}')
        for name in ("require_hardware", "load_backbone"):
            monkeypatch.setattr(stage, name, lambda *_: pytest.fail("too late"))
        with pytest.raises(UserError) as caught:
            stage.main(settings, folder, tmp_path / "adapter")
        return str(caught.value)

    return train


def test_train_refuses_before_it_loads(low, prepared, refusal):
    assert refusal(low, prepared(eval=[3])) == FAULT


def run_doctor(settings, tmp_path, monkeypatch, capsys, row="label range") -> tuple[object, str]:
    """Exit code and a row of the table, in the folder `tmp_path`, without other checks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llava-dvc", "doctor"])
    monkeypatch.setattr(doctor, "hardware_checks", lambda _: [])
    monkeypatch.setattr(doctor, "_load_trainer", lambda *_: None)
    monkeypatch.setattr(doctor, "model_checks", lambda *_: [])
    monkeypatch.setattr(doctor, "cost_checks", lambda *_: [])
    (tmp_path / "data" / "frames").mkdir(parents=True, exist_ok=True)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings.model_dump()))
    code = None
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    return code, next(x for x in capsys.readouterr().out.splitlines() if row in x)


def test_doctor_says_so(low, prepared, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("id,count\n1,12\n")
    prepared(eval=[3])
    code, line = run_doctor(low, tmp_path, monkeypatch, capsys)
    assert code == "error: 1 of these checks would stop a training"
    assert line.split(maxsplit=3)[2:] == ["FAULT", FAULT]


def test_doctor_warns_of_few_frames_to_evaluate_on(cfg, prepared, tmp_path, monkeypatch, capsys):
    assert check_eval_frames(cfg, tmp_path / "prepared").found.startswith("not known before")
    check = check_eval_frames(cfg, prepared(eval=[0, 1, 2, 3]))
    assert (check.found, check.fault) == ("4 frames", None)
    assert check.note.startswith("4 evaluation frames are too few: an MAE on fewer than 10 says")
    _, line = run_doctor(cfg, tmp_path, monkeypatch, capsys, "evaluation")
    assert line.split(maxsplit=2)[1:] == ["note", check.note]
    enough = check_eval_frames(cfg, prepared(eval=[0] * 10))
    assert (enough.found, enough.note) == ("10 frames", None)


POINTS_FAULT = (
    "image.tiles: is [2, 2], but data/ has no points.csv, which says how many people each tile "
    "has; add it (docs/data.md), or set image.tiles to [1, 1]"
)


@pytest.fixture
def tiled(cfg):
    return cfg.model_copy(update={"image": cfg.image.model_copy(update={"tiles": (2, 2)})})


def test_tiles_without_points_are_refused_before_anything_is_loaded(cfg, tiled, prepared, refusal):
    folder = prepared(train=[3], val=[3], eval=[3])
    assert refusal(tiled, folder) == POINTS_FAULT
    assert check_tile_points(cfg, folder).fault is None


def test_tiles_need_points_before_prepare_has_run(tiled, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    assert check_tile_points(tiled, tmp_path / "prepared", data).fault is None  # no labels either
    (data / "labels.csv").write_text("id,count\n1,0\n")
    assert check_tile_points(tiled, tmp_path / "prepared", data).fault == POINTS_FAULT
    (data / "points.csv").write_text("id,x,y\n")
    assert check_tile_points(tiled, tmp_path / "prepared", data).fault is None


def test_doctor_reads_the_labels_before_prepare_has_run(low, tmp_path, monkeypatch, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("id,count\n1,12\n3,40\nx,99\n")
    code, line = run_doctor(low, tmp_path, monkeypatch, capsys)
    assert code == "error: 1 of these checks would stop a training"
    assert FAULT in line
    (tmp_path / "data" / "labels.csv").unlink()
    code, line = run_doctor(low, tmp_path, monkeypatch, capsys)
    assert code == "error: 1 of these checks would stop a training"  # labels.csv is missing
    assert line.split()[2:] == ["ok", "no", "labels", "yet"]
