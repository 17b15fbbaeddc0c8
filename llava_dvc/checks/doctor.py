"""`llava-dvc doctor`: runs every check that comes before training, without training."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset
from PIL import Image

from llava_dvc.checks.check import Check
from llava_dvc.checks.hardware import hardware_checks
from llava_dvc.checks.inputs import input_checks
from llava_dvc.checks.label_range import check_eval_frames, check_label_range, check_tile_points
from llava_dvc.checks.preflight import CAMERA_SIZE, RequestedModel, model_checks
from llava_dvc.checks.training_cost import cost_checks, rows_to_time
from llava_dvc.config import Config
from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.dataset import FEATURES, load_split
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec


def all_checks(cfg: Config, prepared: Path) -> Iterator[Check]:
    """Yields the checks of inputs, labels and hardware, then the model checks if no hardware
    check and none of the tiles has a fault. Without any fault it also yields what training costs.
    """
    yield from input_checks(cfg.backbone.name)
    yield check_label_range(cfg, prepared)
    yield check_eval_frames(cfg, prepared)
    tiles = check_tile_points(cfg, prepared)
    yield tiles
    loadable = tiles.fault is None
    for check in hardware_checks(cfg.backbone):
        loadable &= check.fault is None
        yield check
    if not loadable:
        return
    try:
        with TemporaryDirectory() as folder:
            trainer = _load_trainer(cfg, _some_rows(cfg, prepared), Path(folder))
            requested = RequestedModel(cfg.backbone, cfg.image, cfg.adapter)
            for check in model_checks(trainer, requested):
                loadable &= check.fault is None
                yield check
            if loadable:
                yield from cost_checks(cfg, prepared, trainer)
    except UserError as error:
        yield Check("model", "not usable", str(error))


def table_row(check: Check) -> str:
    """Returns a line with the check's name, `ok`, `note` or `FAULT`, and its text."""
    result = "FAULT" if check.fault else "note" if check.note else "ok"
    return f"{check.name:<16} {result:<6} {check.fault or check.note or check.found}\n"


def _load_trainer(cfg: Config, rows: Dataset, folder: Path) -> CountTrainer:
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    spec = TrainingSpec(rows, rows, cfg.adapter, cfg.train, cfg.seed, folder)
    return CountTrainer(load_backbone(cfg.backbone), encoder, spec)


def _some_rows(cfg: Config, prepared: Path) -> Dataset:
    """Returns training rows for a few steps, or two grey frames if `prepared` does not exist. These
    have points only if tiles need them.
    """
    if (prepared / "train").is_dir():
        return rows_to_time(cfg, load_split(prepared, "train"))
    conversation = Conversation("How many people?", PLACEHOLDER)
    grey = Image.effect_noise(CAMERA_SIZE, 64).convert("RGB")
    rows = [
        {
            "frame": "grey.png",
            "image": grey,
            "count": count,
            "camera": None,
            "points": None if cfg.image.tiles == (1, 1) else [{"x": 8.0, "y": 8.0}] * count,
            "messages": conversation.messages(count),
        }
        for count in (3, 12)
    ]
    return Dataset.from_list(rows, features=FEATURES)
