from functools import partial

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit
from safetensors.torch import load_file
from transformers import TrainerCallback

from llava_dvc.checks.preflight import RequestedModel, require_model
from llava_dvc.conversation import question_text
from llava_dvc.model.adapter import load_adapter, save_adapter
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.chat_template import render_prompt
from llava_dvc.model.counting import Answers, CountPredictor
from llava_dvc.model.smoothing import fit_smoothing
from llava_dvc.training.augment import augmented_image, augmented_rows
from llava_dvc.training.checkpoints import last_checkpoint
from llava_dvc.training.collator import IGNORED, Collator
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit
from tests.recipes import recipe


class Stop(Exception):
    """Stands for a kill."""


class StopAfter(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Stop


def train(*arguments, **changes):
    return tune(*arguments, **changes).model


def tune(cfg, encoder, rows, folder, callbacks=(), **changes):
    model = load_backbone(cfg.backbone)
    adapter = cfg.adapter.model_copy(update=changes)
    trainer = CountTrainer(
        model,
        encoder,
        TrainingSpec(
            rows,
            rows.select(range(2)),
            adapter,
            cfg.train,
            seed=cfg.seed,
            checkpoints=folder,
            callbacks=callbacks,
        ),
    )
    require_model(trainer, RequestedModel(cfg.backbone, cfg.image, adapter))
    return fit(trainer)


def weights(model):
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_nf4_reaches_the_language_model_only(backbone):
    quantised = {n for n, m in backbone.named_modules() if isinstance(m, Linear4bit)}
    assert len(quantised) == 14
    assert all(name.startswith("model.language_model.layers.") for name in quantised)


def test_labels_are_digits_and_eos(encoder, rows):
    batch = Collator(encoder)([rows[0], rows[3]])
    answers = [encoder.processor.tokenizer.decode(r[r != IGNORED]) for r in batch["labels"]]
    assert answers == ["3</s>", "40</s>"]
    ids = batch["input_ids"]
    assert (ids == encoder.processor.tokenizer.bos_token_id).sum(dim=1).tolist() == [1, 1]
    assert (ids == encoder.processor.image_token_id).sum(dim=1).tolist() == [16, 16]
    kept = batch["labels"][:, -batch["logits_to_keep"] + 1 :]
    assert (kept != IGNORED).sum() == (batch["labels"] != IGNORED).sum()


def test_prediction_asks_in_the_words_of_training(encoder, rows):
    batch = Collator(encoder)([rows[3]])
    prompt = encoder.processor(
        images=rows[3]["image"], text=render_prompt(encoder.processor, rows[3]["messages"]),
        add_special_tokens=False, return_tensors="pt",
    ).input_ids  # fmt: skip
    first = int((batch["labels"][0] != IGNORED).nonzero()[0])
    assert torch.equal(batch["input_ids"][:, :first], prompt)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "lora_plus"])
def test_only_the_adapter_learns(cfg, encoder, rows, tmp_path, method):
    before = weights(train(cfg, encoder, rows, tmp_path / "a", [], method=method))
    model = load_backbone(cfg.backbone)
    frozen = {n: p.clone() for n, p in model.named_parameters()}
    model = train(cfg, encoder, rows, tmp_path / "b", method=method)
    after = weights(model)
    assert after.keys() == before.keys()
    assert all("lora_" in name for name in after)
    assert all(p.dtype == torch.float32 for p in after.values())
    assert all(p.abs().sum() > 0 for n, p in after.items() if "lora_B" in n)
    untouched = {
        n.removeprefix("base_model.model.").replace(".base_layer", ""): p
        for n, p in model.named_parameters()
        if "lora_" not in n
    }
    assert all(torch.equal(untouched[n], p) for n, p in frozen.items())


def test_adapters_sit_where_asked(cfg, encoder, rows, tmp_path):
    for vision, projector in ((False, False), (True, True)):
        model = train(
            cfg, encoder, rows, tmp_path / str(vision), vision=vision, projector=projector
        )
        names = set(weights(model))
        assert any("vision_tower" in n for n in names) == vision
        assert any("projector" in n for n in names) == projector
        assert not any("vision_tower.encoder.layers.2." in n for n in names)  # never read


def test_resumed_training_is_the_uninterrupted_one(cfg, encoder, rows, tmp_path):
    whole = weights(train(cfg, encoder, rows, tmp_path / "whole"))
    with pytest.raises(Stop):
        train(cfg, encoder, rows, tmp_path / "killed", [StopAfter(3)])
    assert last_checkpoint(tmp_path / "killed").endswith("checkpoint-2")
    resumed = weights(train(cfg, encoder, rows, tmp_path / "killed"))
    assert all(torch.equal(resumed[n], p) for n, p in whole.items())


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "adapter_model.safetensors"])
def test_half_a_checkpoint_is_not_resumed_from(cfg, encoder, rows, tmp_path, name):
    with pytest.raises(Stop):
        train(cfg, encoder, rows, tmp_path, [StopAfter(3)])
    broken = tmp_path / "checkpoint-2" / name
    broken.write_bytes(broken.read_bytes()[:-1])
    assert last_checkpoint(tmp_path) is None
    assert not broken.parent.exists()


def test_saved_adapter_answers_as_in_memory(cfg, encoder, rows, tmp_path):
    model = train(cfg, encoder, rows, tmp_path / "t")
    question = question_text(rows[0]["messages"])
    first, second = tmp_path / "one", tmp_path / "two"
    for folder in (first, second):
        save_adapter(model, weights(model), encoder, recipe(cfg), folder)
    names = sorted(p.name for p in first.iterdir())
    assert [(first / n).read_bytes() for n in names] == [(second / n).read_bytes() for n in names]
    images = list(rows["image"])
    here = CountPredictor(model.eval(), encoder, question, 60).predict(images, 4)
    loaded, its_processor, _ = load_adapter(first)
    there = CountPredictor(loaded, its_processor, question, 60).predict(images, 4)
    assert here.replies == there.replies
    # Loading adds the adapter into the float32 layers: other rounding, nothing else.
    assert abs(here.probabilities - there.probabilities).max() < 1e-5
    towers = [n for n, m in loaded.named_modules() if getattr(m, "merged", False)]
    assert towers
    assert not any("language_model" in name for name in towers)


@pytest.fixture
def counted(monkeypatch):
    """Has the validation frames counted as told instead: `right` or not, one answer a counting."""

    def install(*right):
        said = iter(right)

        def predict(predictor, frames, batch_size):
            counts = [3, 12] if next(said) else [9, 9]
            return Answers(np.eye(81)[counts], [str(count) for count in counts])

        monkeypatch.setattr(CountPredictor, "predict", predict)

    return install


def test_the_adapter_that_counts_best_is_kept(cfg, encoder, rows, tmp_path, counted):
    """Its calibration and its smoothing are fitted on the same labels."""
    counted(True, False)
    recipe = cfg_with(cfg, epochs=2)
    result = tune(recipe, encoder, rows, tmp_path)
    steps = np.abs(np.diff(rows["count"][:]))
    found = fit_smoothing(steps, np.eye(81)[[3, 12]], rows["count"][:2], [[0, 1]])
    assert result.smoothing == found
    tuned = result.model
    steps = {int(p.stem) for p in (tmp_path / "validation").glob("*.npy")}
    assert len(steps) == 2
    kept = tmp_path / "validation" / f"{min(steps)}.safetensors"
    assert all(torch.equal(p, load_file(kept)[n]) for n, p in weights(tuned).items())
    counted(False, True)
    other = train(recipe, encoder, rows, tmp_path / "other")
    assert not all(torch.equal(weights(other)[n], p) for n, p in weights(tuned).items())


def test_training_stops_when_it_has_not_counted_better_for_long(
    cfg, encoder, rows, tmp_path, counted
):
    counted(False, True, True, False)
    recipe = cfg_with(cfg, epochs=20, validate_every=3, patience=2)
    train(recipe, encoder, rows, tmp_path)
    assert sorted(int(p.stem) for p in (tmp_path / "validation").glob("*.npy")) == [3, 6, 8, 9]


def test_a_mirrored_frame_is_seen_from_the_other_side(cfg, encoder, rows):
    kinds = ("flip",)
    copies = augmented_rows(rows, cfg.train.model_copy(update={"augment": kinds}))
    assert copies["count"][:] == rows["count"][:] * 4
    image_of = partial(augmented_image, kinds=kinds)
    batch = Collator(encoder, image_of=image_of)([copies[1], copies[9]])
    straight, turned = batch["pixel_values"]
    assert not torch.equal(straight, turned)
    torch.testing.assert_close(straight, turned.flip(-1), atol=0.05, rtol=0)
    assert torch.equal(*batch["labels"])


def test_8_bit_averages_train_alike(cfg, encoder, rows, tmp_path):
    plain, coarse = (
        weights(train(cfg_with(cfg, optimizer=name), encoder, rows, tmp_path / name, r=64))
        for name in ("adamw", "adamw_8bit")
    )
    moved = [n for n in plain if "lora_B" in n]
    assert all(coarse[n].abs().sum() > 0 for n in moved)
    far = sum(float((coarse[n] - plain[n]).abs().sum()) for n in moved)
    assert 0 < far < 0.2 * sum(float(plain[n].abs().sum()) for n in moved)


def cfg_with(cfg, **changes):
    return cfg.model_copy(update={"train": cfg.train.model_copy(update=changes)})
