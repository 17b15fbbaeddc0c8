"""Frames without the tokens of their border: which those are, and that nothing else changes."""

from io import BytesIO

import datasets
import pytest
import torch
from datasets import Dataset
from PIL.ExifTags import Base
from PIL.Image import Exif

from llava_dvc.checks.preflight import RequestedModel, require_model
from llava_dvc.errors import UserError
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import CountPredictor, generate
from llava_dvc.model.padding import drop_padding, visible_patches
from llava_dvc.training.collator import Collator, image_sizes
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit
from tests.conftest import frame

QUESTION = "How many people?"


@pytest.fixture
def model(cfg):
    return load_backbone(cfg.backbone)


@pytest.fixture
def padded(cfg):
    return cfg.image.model_copy(update={"geometry": "pad", "drop_border": True})


@pytest.fixture
def dropping(cfg, padded):
    return backbone_encoder(cfg.backbone, padded)


@pytest.fixture
def whole(cfg, padded):
    return backbone_encoder(cfg.backbone, padded.model_copy(update={"drop_border": False}))


def test_patches_that_show_some_of_the_frame():
    wide = visible_patches((640, 480), 24)
    assert wide == list(range(3 * 24, 21 * 24))  # 144 of 576 are border
    assert visible_patches((480, 640), 4) == list(range(16))  # all show some
    assert visible_patches((100, 400), 4) == [1, 2, 5, 6, 9, 10, 13, 14]
    assert visible_patches((336, 336), 24) == list(range(576))


def test_dropped_is_as_if_hidden(model, dropping, whole):
    """The whole sequence with the border's tokens masked out gives the same next token."""
    images = [frame(seed, (80, 30)) for seed in (1, 2)]
    texts = [whole.prompt(QUESTION)] * 2
    batch = whole.encode(images, texts)
    start = int((batch["input_ids"][0] == whole.processor.image_token_id).nonzero()[0])
    border = sorted({*range(16)} - {*visible_patches((80, 30), 4)})
    assert border
    with torch.inference_mode():
        seen = model(**batch).logits[:, -1]
    batch["attention_mask"][:, [start + patch for patch in border]] = 0
    places = torch.arange(batch["input_ids"].shape[1])[None]  # else they count seen tokens only
    with torch.inference_mode():
        expected = model(**batch, position_ids=places).logits[:, -1]
        drop_padding(model, dropping.padding((80, 30)))
        short = dropping.encode(images, texts)
        found = model(**short).logits[:, -1]
    assert short["input_ids"].shape[1] == batch["input_ids"].shape[1] - len(border)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, seen, rtol=1e-4, atol=1e-5)


def test_replies_are_those_of_generation(model, dropping):
    images = [frame(seed, (80, 30)) for seed in range(5)]
    answers = CountPredictor(model, dropping, QUESTION, 60).predict(images, 2)
    batch = dropping.encode(images, [dropping.prompt(QUESTION)] * 5)
    assert answers.replies == generate(model, dropping.processor, batch)


def test_frames_of_two_sizes_are_an_error(cfg, dropping, rows, tmp_path):
    images = [frame(0, (80, 30)), frame(1, (64, 48))]
    model = load_backbone(cfg.backbone)
    with pytest.raises(UserError, match="frames are 80x30 and 64x48; make all frames one size"):
        CountPredictor(model, dropping, QUESTION, 60).predict(images, 1)
    other = rows.select([0]).map(lambda _: {"image": frame(1, (80, 30))})
    spec = TrainingSpec(rows, other, cfg.adapter, cfg.train, 0, tmp_path)
    with pytest.raises(UserError, match="frames are 64x48 and 80x30; make all frames one size"):
        CountTrainer(model, dropping, spec)


def test_it_trains(cfg, padded, dropping, rows, tmp_path):
    model = load_backbone(cfg.backbone)
    spec = TrainingSpec(rows, rows, cfg.adapter, cfg.train, 0, tmp_path)
    trainer = CountTrainer(model, dropping, spec)
    batch = Collator(dropping)([rows[0]])
    kept = visible_patches(rows[0]["image"].size, 4)
    assert (batch["input_ids"] == dropping.processor.image_token_id).sum() == len(kept) <= 16
    require_model(trainer, RequestedModel(cfg.backbone, padded, cfg.adapter))
    tuned = fit(trainer)
    assert any(p.abs().sum() > 0 for n, p in tuned.model.named_parameters() if "lora_B" in n)


def test_only_pad_has_a_border(cfg):
    values = cfg.model_dump()
    values["image"] |= {"geometry": "squash", "drop_border": True}
    with pytest.raises(ValueError, match=r"image\.drop_border: is true, but .* is squash"):
        type(cfg).model_validate(values)


def test_the_memory_of_a_length_stays_where_it_is(model, dropping):
    """A CUDA graph reads it there. Two shapes of frames have as many tokens, but not the same."""

    def memory_of(size: tuple[int, int]) -> tuple[int, int, list[int]]:
        drop_padding(model, dropping.padding(size))
        patches = model.model.multi_modal_projector.visible_patches
        positions = model.model.language_model.rotary_emb.kept_positions
        return patches.data_ptr(), positions.data_ptr(), patches.tolist()

    wide, high, other, again = map(memory_of, [(400, 100), (100, 400), (640, 480), (400, 100)])
    assert wide == again
    assert wide[:2] == high[:2]
    assert wide[2] != high[2]
    assert wide[0] != other[0]


def test_sizes_are_those_of_the_upright_images():
    """By the header alone: also of a photograph that lies on its side."""
    lying, files = Exif(), [BytesIO(), BytesIO()]
    lying[Base.Orientation] = 6
    frame(0).save(files[0], "PNG")
    frame(1, (80, 60)).save(files[1], "JPEG", exif=lying)
    rows = Dataset.from_list([{"image": {"bytes": file.getvalue()}} for file in files])
    read = rows.cast_column("image", datasets.Image(mode="RGB"))
    assert (
        list(image_sizes(read)) == [image.size for image in read["image"]] == [(64, 48), (60, 80)]
    )
