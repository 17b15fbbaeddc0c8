"""Look at everything a training would, without training."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset
from PIL import Image

from llava_dvc.checks import hardware, preflight
from llava_dvc.checks.hardware import Check
from llava_dvc.checks.preflight import Asked
from llava_dvc.config import Config
from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.dataset import FEATURES, load_split
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec


def examine(cfg: Config, prepared: Path) -> Iterator[Check]:
    """Every check, one by one; those of the model only when nothing keeps it from loading."""
    usable = True
    for check in hardware.inspect(cfg.backbone):
        usable &= check.fault is None
        yield check
    if usable:
        try:
            with TemporaryDirectory() as folder:
                trainer = _trainer(cfg, _two_rows(prepared), Path(folder))
                yield from preflight.inspect(trainer, Asked(cfg.backbone, cfg.image, cfg.adapter))
        except UserError as error:
            yield Check("model", "not usable", str(error))


def row(check: Check) -> str:
    """A line of the table: the check, `ok`, `note` or `FAULT`, and what was found."""
    result = "FAULT" if check.fault else "note" if check.note else "ok"
    return f"{check.name:<16} {result:<6} {check.fault or check.note or check.found}\n"


def _trainer(cfg: Config, rows: Dataset, folder: Path) -> CountTrainer:
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    spec = TrainingSpec(rows, rows, cfg.adapter, cfg.train, cfg.seed, folder)
    return CountTrainer(load_backbone(cfg.backbone), encoder, spec)


def _two_rows(prepared: Path) -> Dataset:
    """Of the frames to train on, or grey ones before there are any."""
    if (prepared / "train").is_dir():
        return load_split(prepared, "train").select(range(2))
    ask = Conversation("How many people?", PLACEHOLDER)
    grey = Image.effect_noise(preflight.CAMERA, 64).convert("RGB")
    rows = [
        {
            "frame": "grey.png",
            "image": grey,
            "count": count,
            "camera": None,
            "messages": ask.messages(count),
        }
        for count in (3, 12)
    ]
    return Dataset.from_list(rows, features=FEATURES)
