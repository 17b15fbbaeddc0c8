"""Every fault is put in on purpose, into a real model and a real trainer, and has to be named."""

import sys

import pytest
import torch
import yaml
from bitsandbytes.nn import Linear4bit

from llava_dvc import cli
from llava_dvc.checks import preflight
from llava_dvc.checks.gradient_check import run_passes
from llava_dvc.checks.preflight import Asked, inspect, require_sound
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.model import adapter as adapters
from llava_dvc.model import backbone as backbones
from llava_dvc.model import model_patches
from llava_dvc.model.adapter import peft_config
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.encoder import image_processor
from llava_dvc.training import count_trainer
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, fit
from stages import train as stage
from tests.conftest import ROOT

RATE = 1.4e-5


@pytest.fixture
def build(cfg, rows, tmp_path, monkeypatch):
    """Makes a trainer from the tiny preset with changes, and what was asked for."""

    def call(
        *, geometry="squash", targets=None, checkpointing=False, compiled=False, encoder=None,
        **changes,
    ):  # fmt: skip
        changes = {"unpacked": False, "vision": False, "projector": False} | changes
        backbone, adapter = (
            section.model_copy(update={k: v for k, v in changes.items() if k in vars(section)})
            for section in (cfg.backbone, cfg.adapter)
        )
        asked = Asked(backbone, cfg.image.model_copy(update={"geometry": geometry}), adapter)
        model = load_backbone(asked.backbone)
        if targets:
            peft = peft_config(asked.adapter, model)
            peft.target_modules = targets
            monkeypatch.setattr(count_trainer, "peft_config", lambda *_: peft)
        recipe = cfg.train.model_copy(
            update={"checkpointing": checkpointing, "compile": compiled, "augment": ()}
        )
        own = encoder or backbone_encoder(asked.backbone, asked.image)
        spec = TrainingSpec(rows, rows, asked.adapter, recipe, cfg.seed, tmp_path)
        trainer = CountTrainer(model, own, spec)
        return trainer, asked

    return call


def asking(asked, section, **changes):
    sections = vars(asked) | {section: getattr(asked, section).model_copy(update=changes)}
    return Asked(**sections)


def llava(trainer):
    return trainer.model.get_base_model()


def tensors(trainer, part):
    return [p for n, p in trainer.model.named_parameters() if part in n]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vision": True, "projector": True, "dropout": 0.1},
        {"method": "dora", "projector": True},
        {"method": "rslora", "quantization": "none"},
        {"checkpointing": True, "dtype": "bfloat16"},
        {"vision": True, "checkpointing": True, "unpacked": True},
        {"geometry": "pad", "compiled": True},
    ],
)
def test_a_sound_model_passes(build, changes):
    checks = list(inspect(*build(**changes)))
    assert [check.fault or check.note for check in checks] == [None] * 11


# --- 4-bit layers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "fault"),
    [
        (["vision_tower", "multi_modal_projector", "lm_head"], r"linear_1 is in 4-bit \(and \d+ m"),
        (backbones.KEPT_WHOLE[:2], "lm_head is in 4-bit"),
        ([*backbones.KEPT_WHOLE, "down_proj"], r"layers\.0\.mlp\.down_proj is not in 4-bit"),
    ],
)
def test_other_layers_in_4_bit(build, monkeypatch, kept, fault):
    monkeypatch.setattr(backbones, "KEPT_WHOLE", kept)
    with pytest.raises(UserError, match=f"backbone.quantization: is nf4, but .*{fault}"):
        require_sound(*build())


def test_4_bit_where_none_is_asked_for(build):
    trainer, asked = build()
    with pytest.raises(UserError, match=r"is none, but model\.language.* is in 4-bit \("):
        require_sound(trainer, asking(asked, "backbone", quantization="none"))


# --- adapted layers ---------------------------------------------------------------------------


def test_adapters_in_the_tower_unasked(build):
    with pytest.raises(UserError, match=r"adapter: .*projector.linear_1 carries an adapter \(and"):
        require_sound(*build(targets="all-linear"))
    with pytest.raises(UserError, match=r"adapter: .*mlp\.down_proj carries no adapter \(and"):
        require_sound(*build(targets=["q_proj", "v_proj"]))


def test_an_adapter_on_the_block_that_is_never_read(build, monkeypatch):
    monkeypatch.setattr(adapters, "VISION", adapters.VISION.replace("({})", r"(\d+|{})"))
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.fc1 carries an adapter \(and 5 more"):
        require_sound(*build(vision=True))


@pytest.mark.parametrize("part", ["vision", "projector"])
def test_no_adapters_where_asked(build, part):
    trainer, asked = build()
    with pytest.raises(
        UserError, match=rf"adapter: asks for language, {part}, but .* carries no ad"
    ):
        require_sound(trainer, asking(asked, "adapter", **{part: True}))


def test_blocks_of_another_name(build, monkeypatch):
    """A transformers that renames the tower's blocks: the pattern of the adapter finds none."""
    monkeypatch.setattr(adapters, "VISION", r"model\.vision\.blocks\.({})\.fc1")
    monkeypatch.setattr(preflight, "BLOCK", "model.vision.blocks.{}.")
    with pytest.raises(UserError, match=r"model\.vision\.blocks\.0\. carries no adapter"):
        require_sound(*build(vision=True))


# --- numbers ----------------------------------------------------------------------------------


def test_bfloat16_adapters(build):
    trainer, asked = build()
    for parameter in tensors(trainer, "lora_"):
        parameter.data = parameter.data.bfloat16()  # as TRL leaves them
    with pytest.raises(UserError, match=r"28 of 28 adapter tensors are bfloat16"):
        require_sound(trainer, asked)


def test_what_one_step_moves():
    """Why adapters are float32: half the entries of a fresh lora_A, 4096 wide, or all of them."""
    torch.manual_seed(0)
    moved = {}
    for dtype in (torch.bfloat16, torch.float32):
        weight = torch.nn.Parameter(torch.empty(64, 4096))
        torch.nn.init.kaiming_uniform_(weight, a=5**0.5)  # PEFT's
        weight.data = weight.data.to(dtype)
        before = weight.detach().clone()
        optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=0.0)
        weight.grad = torch.randn_like(weight)
        optimizer.step()
        moved[dtype] = float((weight != before).float().mean())
    assert moved[torch.bfloat16] < 0.35
    assert moved[torch.float32] > 0.99


def test_another_compute_dtype(build):
    trainer, asked = build()
    layer = next(m for m in llava(trainer).modules() if isinstance(m, Linear4bit))
    layer.compute_dtype = torch.bfloat16
    with pytest.raises(UserError, match="is float32, but the model computes in bfloat16, float32"):
        require_sound(trainer, asked)


def test_another_dtype_than_asked_for(build):
    trainer, asked = build()
    with pytest.raises(UserError, match="is bfloat16, but the model computes in float32;"):
        require_sound(trainer, asking(asked, "backbone", dtype="bfloat16"))


def test_autocast_of_another_dtype(build):
    trainer, asked = build()
    trainer.args.bf16 = True
    with pytest.raises(UserError, match="is float32, but the model computes in bfloat16, float32"):
        require_sound(trainer, asked)


# --- text and image ---------------------------------------------------------------------------


def collating(trainer, change):
    """A collator that spoils the batch of the trainer's own."""
    own = trainer.data_collator

    def collate(rows):
        batch = own(rows)
        change(batch)
        return batch

    trainer.data_collator = collate


def test_the_question_among_the_labels(build):
    trainer, asked = build()
    collating(trainer, lambda batch: batch.update(labels=batch["input_ids"]))
    with pytest.raises(
        UserError, match=r"would learn 31 tokens ending in '.*:.12</s>', expected '12</s>'"
    ):
        require_sound(trainer, asked)


def test_no_eos_among_the_labels(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.chat_template = encoder.processor.chat_template.replace("{{ eos_token }}", "")
    with pytest.raises(UserError, match="would learn 2 tokens ending in '12', expected '12</s>'"):
        require_sound(*build(encoder=encoder))


def test_the_space_among_the_labels(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    whole, prompt = encoder.processor.chat_template.rsplit("' ASSISTANT: '", 1)
    encoder.processor.chat_template = f"{whole}' ASSISTANT:'{prompt}"
    with pytest.raises(UserError, match=r"would learn 4 tokens ending in '.12</s>', expected"):
        require_sound(*build(encoder=encoder))


@pytest.mark.parametrize(("bos", "where"), [("{{ bos_token }}" * 2, r"\[0, 1\]"), ("", r"\[\]")])
def test_bos_not_once(build, cfg, bos, where):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.chat_template = encoder.processor.chat_template.replace(
        "{{ bos_token }}", bos
    )
    with pytest.raises(UserError, match=rf"BOS is at {where} in a training sequence, expected"):
        require_sound(*build(encoder=encoder))


def test_another_prompt_at_prediction(build):
    trainer, asked = build()
    collating(trainer, lambda batch: batch["input_ids"][:, 1].add_(1))
    with pytest.raises(UserError, match="tokens of the prompt at prediction are not the"):
        require_sound(trainer, asked)


def test_another_number_of_image_tokens(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.patch_size = 28
    with pytest.raises(UserError, match="writes 4 image tokens, expected 16"):
        require_sound(*build(encoder=encoder))


def test_another_picture_size(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    trainer, asked = build(encoder=encoder)
    own = encoder.processor.image_processor
    collating(trainer, lambda batch: batch.update(pixel_values=batch["pixel_values"][..., :28]))
    assert encoder.processor.image_processor is own
    with pytest.raises(UserError, match="takes 56x56 pixels, its encoder gives 56x28"):
        require_sound(trainer, asked)


def test_truncation(build):
    trainer, asked = build()
    trainer.args.max_length = 20
    with pytest.raises(UserError, match="would get sequences cut to max_length 20"):
        require_sound(trainer, asked)


def test_rows_longer_than_the_model_reads(build):
    trainer, asked = build()
    llava(trainer).config.text_config.max_position_embeddings = 20
    with pytest.raises(UserError, match=r"reads 20 tokens, a row has \d+"):
        require_sound(trainer, asked)


def test_sides_cut_off_unasked(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.image_processor = image_processor("crop", 56)
    with pytest.raises(UserError, match=r"is squash, and the sides of a 640x480 .* do not reach"):
        require_sound(*build(encoder=encoder))


def test_sides_cut_off_by_choice_are_a_note(build):
    trainer, asked = build(geometry="crop")
    require_sound(trainer, asked)
    notes = [check.note for check in inspect(trainer, asked) if check.note]
    assert notes == [
        "image.geometry: is crop, and the sides of a 640x480 frame are cut off; "
        "pad or squash keep them"
    ]


# --- gradients --------------------------------------------------------------------------------


def test_adapters_behind_a_tower_without_a_graph(build):
    trainer, asked = build(vision=True)
    model_patches.run_tower_without_graph(llava(trainer))
    with pytest.raises(UserError, match=r"no finite one, reaches .*vision_tower.* 23 more tensors"):
        require_sound(trainer, asked)


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_a_dead_tensor(build, part):
    trainer, asked = build(method="dora")
    dead = tensors(trainer, part)[3]
    dead.requires_grad_(False)
    with pytest.raises(UserError, match=rf"no finite one, reaches [\w.]*{part}[\w.]*;"):
        require_sound(trainer, asked)


def test_a_gradient_of_zeros(build):
    trainer, asked = build()
    tensors(trainer, "lora_A")[3].data.zero_()
    with pytest.raises(UserError, match=r"no finite one, reaches [\w.]*lora_B[\w.]*;"):
        require_sound(trainer, asked)


def test_a_gradient_that_is_no_number(build):
    trainer, asked = build()
    tensors(trainer, "lora_A")[0].data[0, 0] = torch.nan
    with pytest.raises(UserError, match="adapter: no gradient, or no finite one, reaches"):
        require_sound(trainer, asked)


def test_something_else_would_be_trained(build):
    trainer, asked = build()
    llava(trainer).lm_head.weight.requires_grad_(True)
    with pytest.raises(UserError, match=r"lm_head\.weight would be trained too"):
        require_sound(trainer, asked)


def test_a_pass_that_changes_weights(build):
    trainer, asked = build()
    linear = llava(trainer).model.multi_modal_projector.linear_1

    def change(module, *_):
        module.weight.data.mul_(1.001)

    linear.register_forward_hook(change)
    with pytest.raises(UserError, match=r"a pass changes .*projector.linear_1.weight;"):
        require_sound(trainer, asked)


def test_backward_through_a_frozen_tower(build, monkeypatch):
    monkeypatch.setattr(model_patches, "run_tower_without_graph", lambda model: None)
    with pytest.raises(UserError, match=r"adapter.vision: is false, but backward would go through"):
        require_sound(*build(checkpointing=True))
    require_sound(*build(checkpointing=False))  # only then does TRL make inputs require gradients


def test_two_rows_too_many_for_the_memory(build, monkeypatch):
    """A GPU that is full, which cannot be had here."""

    def full(*_):
        raise torch.OutOfMemoryError

    trainer, asked = build()
    monkeypatch.setattr(trainer, "compute_loss", full)
    with pytest.raises(UserError, match=r"train.checkpointing: two rows do not fit"):
        require_sound(trainer, asked)


# --- no trace ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(build, fails):
    trainer, _ = build(method="dora", dropout=0.1, checkpointing=True)
    model = trainer.model.eval()
    llava(trainer).lm_head.train()
    for parameter in tensors(trainer, "lora_B")[:3]:
        parameter.data.normal_()  # a method that does not start at 0

    def state():
        flags = [(p.requires_grad, p.grad) for p in model.parameters()]
        hooks = sum(len(module._forward_hooks) for module in model.modules())
        modes = [module.training for module in model.modules()]
        recomputed = [getattr(m, "gradient_checkpointing", False) for m in model.modules()]
        return flags, hooks, modes, recomputed, torch.get_rng_state().tolist()

    batch = trainer.data_collator([trainer.train_dataset[0], trainer.train_dataset[1]])
    model(**{name: value for name, value in batch.items() if name != "labels"})
    before, values = state(), [p.detach().clone() for p in model.parameters()]
    if fails:
        trainer.compute_loss = lambda *_: batch["no such key"]
        with pytest.raises(KeyError):
            run_passes(trainer, batch)
    else:
        assert run_passes(trainer, batch).silent == []
    assert state() == before
    assert all(torch.equal(p, v) for p, v in zip(model.parameters(), values, strict=True))


def test_training_is_the_same_without_the_checks(cfg, encoder, rows, tmp_path):
    def train(folder, checked):
        model = load_backbone(cfg.backbone)
        adapter = cfg.adapter.model_copy(update={"dropout": 0.1})
        recipe = cfg.train.model_copy(update={"augment": ()})
        some, fewer = rows.select(range(4)), rows.select(range(2))
        spec = TrainingSpec(some, fewer, adapter, recipe, cfg.seed, folder)
        trainer = CountTrainer(model, encoder, spec)
        if checked:
            require_sound(trainer, Asked(cfg.backbone, cfg.image, adapter))
        trained = fit(trainer)
        return [p for n, p in trained.model.named_parameters() if "lora_" in n]

    checked, unchecked = (train(tmp_path / str(on), on) for on in (True, False))
    assert all(map(torch.equal, checked, unchecked))


def test_training_stops_before_its_first_step(cfg, rows, store, tmp_path, monkeypatch):
    for name in ("train", "val"):
        rows.save_to_disk(tmp_path / "prepared" / name)
    write_json(tmp_path / "prepared" / "report.json", {"data_md5": "d"})
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(stage, "load_backbone", lambda _: load_backbone(cfg.backbone))
    monkeypatch.setattr(
        count_trainer.CountTrainer, "train", lambda *_, **__: pytest.fail("trained")
    )
    other = cfg.backbone.model_copy(update={"quantization": "none"})
    asked = cfg.model_copy(update={"backbone": other})
    with pytest.raises(UserError, match=r"backbone\.quantization: is none"):
        stage.main(asked, tmp_path / "prepared", tmp_path / "adapter")


# --- doctor -----------------------------------------------------------------------------------


@pytest.fixture
def doctor(cfg, monkeypatch, tmp_path, capsys):
    """Runs `llava-dvc doctor` in an empty folder; returns its exit and its rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["llava-dvc", "doctor"])

    def call(**backbone):
        values = cfg.model_dump()
        values["backbone"] |= backbone
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        code = None
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        lines = capsys.readouterr().out.splitlines()
        return code, {line[:16].strip(): line[17:].split(maxsplit=1) for line in lines}

    return call


def test_doctor_of_a_sound_model(doctor, rows, tmp_path):
    code, found = doctor()
    assert code is None
    assert {result for result, _ in found.values()} == {"ok"}
    assert found["labels"] == ["ok", "3</s>, 12</s>"]
    assert len(found) == 14
    rows.select([3, 4]).save_to_disk(tmp_path / "prepared" / "train")
    assert doctor()[1]["labels"] == ["ok", "40</s>, 31</s>"]


def test_doctor_of_a_missing_folder(doctor):
    code, found = doctor(name="backbones/none")
    assert code == "error: 1 of these would stop a training"
    result, text = found["checkpoint"]
    assert result == "FAULT"
    assert text.startswith("backbone.name: backbones/none/config.json is not there; run `dvc pull")
    assert len(found) == 3


def test_doctor_of_a_faulty_model(doctor, monkeypatch):
    monkeypatch.setattr(backbones, "KEPT_WHOLE", ["model.vision_tower"])
    code, found = doctor()
    assert code == "error: 1 of these would stop a training"
    assert found["4-bit layers"][0] == "FAULT"
    assert "adapters learn" not in found


def test_doctor_of_a_folder_that_does_not_load(doctor, tiny_folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_folder.iterdir():
        if not file.name.startswith("tokenizer"):
            (broken / file.name).write_bytes(file.read_bytes())
    code, found = doctor(name=str(broken))
    assert code == "error: 1 of these would stop a training"
    assert "cannot be loaded" in found["model"][1]
