"""Something tiny, offline and real: a LLaVA of two narrow layers, and a few drawn frames."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import get_peft_model
from PIL import Image as PilImage
from PIL import ImageDraw
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from llava_dvc.config import Config, load_config
from llava_dvc.dataset import FEATURES
from llava_dvc.model.adapter import peft_config, save_adapter
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.encoder import Encoder, image_processor
from llava_dvc.tracking.mlflow_store import ARTIFACTS, connect, rewrite_artifact_paths
from llava_dvc.training.count_trainer import adapter_weights
from pretrain.tokenizer import build_tokenizer
from tests.recipes import recipe

ROOT = Path(__file__).parents[1]
SIDE = 56  # pixels; 16 image tokens


@pytest.fixture(autouse=True)
def usual_signal_handlers() -> None:
    """A training that ends with an error leaves its own, and a job of a script ignores Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint on disk, random weights from a fixed seed."""
    return write_checkpoint(tmp_path_factory.mktemp("tiny-llava"))


def write_checkpoint(folder: Path, width: int = 64) -> Path:
    """Writes a LLaVA with so many features a token."""
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=3,
                num_attention_heads=2,
                image_size=SIDE,
                patch_size=14,
            ),
            text_config=LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=2 * width,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            ),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            pad_token_id=tokenizer.pad_token_id,
            image_seq_length=16,
        )
    )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=image_processor("squash", SIDE),
        tokenizer=tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cfg(tiny_folder: Path) -> Config:
    """The tiny preset on the tiny checkpoint, cut down to seconds."""
    return config_on(tiny_folder)


def config_on(checkpoint: Path) -> Config:
    values = load_config(ROOT / "presets" / "tiny.yaml").model_dump()
    values["backbone"]["name"] = str(checkpoint)
    values["adapter"] |= {"r": 4, "alpha": 8}
    values["train"] |= {"min_steps": 1, "batch_size": 1, "save_every": 2, "augment": []}
    values["train"] |= {"learning_rate": 1e-3}
    values["evaluate"] |= {"batch_size": 4, "max_count": 60}
    return Config.model_validate(values)


@pytest.fixture
def backbone(cfg: Config) -> LlavaForConditionalGeneration:
    return load_backbone(cfg.backbone)


@pytest.fixture(scope="session")
def encoder(cfg: Config) -> Encoder:
    return backbone_encoder(cfg.backbone, cfg.image)


@pytest.fixture(scope="session")
def adapter_folder(tmp_path_factory: pytest.TempPathFactory, cfg: Config, encoder: Encoder) -> Path:
    """An adapter as train leaves it, with random weights."""
    return write_adapter(tmp_path_factory.mktemp("adapter"), cfg, encoder)


def write_adapter(folder: Path, cfg: Config, encoder: Encoder) -> Path:
    torch.manual_seed(1)
    model = load_backbone(cfg.backbone)
    model = get_peft_model(model, peft_config(cfg.adapter, model))
    for name, weights in model.named_parameters():
        if "lora_B" in name:  # they begin at 0, and the adapter would do nothing
            torch.nn.init.normal_(weights, std=0.3)
    made = recipe(cfg, temperature=1.5)
    save_adapter(model, adapter_weights(model), encoder, made, folder)
    return folder


def frame(seed: int, size: tuple[int, int] = (64, 48)) -> PilImage.Image:
    """A noisy picture of coloured blobs, another for every seed."""
    rng = np.random.default_rng(seed)
    image = PilImage.fromarray(rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    for x, y in rng.integers(0, 40, (seed % 7, 2)):
        draw.ellipse((x, y, x + 6, y + 12), fill=(200, int(x) * 5, 40))
    return image


def conversation(count: int, question: str = "How many people?") -> list[dict]:
    return [
        {
            "role": "user",
            "content": [{"type": "image", "text": None}, {"type": "text", "text": question}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": str(count)}]},
    ]


@pytest.fixture(scope="session")
def rows() -> Dataset:
    """Eight frames as a prepared split holds them."""
    counts = [3, 12, 7, 40, 31, 8, 25, 19]
    return Dataset.from_dict(
        {
            "frame": [f"seq_{i:06d}.jpg" for i in range(8)],
            "image": [frame(i) for i in range(8)],
            "count": counts,
            "camera": [None] * 8,
            "points": [None] * 8,
            "messages": [conversation(count) for count in counts],
        },
        features=FEATURES,
    )


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root whose MLflow store has been made, which takes seconds, and holds nothing."""
    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(root))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        connect()
    return root


@pytest.fixture
def store(
    empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], mlflow.MlflowClient]:
    """A repository's root in `tmp_path` with a store of its own; returns a client of it."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    shutil.copy(empty_store / "mlflow.db", tmp_path)
    rewrite_artifact_paths((empty_store / ARTIFACTS).as_uri(), (tmp_path / ARTIFACTS).as_uri())
    return lambda: mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
