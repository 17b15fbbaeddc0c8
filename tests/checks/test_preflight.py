"""Each test injects one fault into a real trainer; the check must name it."""

import re
import shutil
import sys

import pytest
import torch
import yaml
from bitsandbytes.nn import Linear4bit

from llava_dvc import cli
from llava_dvc.checks import preflight
from llava_dvc.checks.gradient_check import gradient_report
from llava_dvc.checks.preflight import RequestedModel, model_checks, require_model
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.model import adapter as adapters
from llava_dvc.model import backbone as backbones
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
    """Builds a trainer from the tiny preset with changes; returns it and the requested model."""

    def call(
        *, geometry="squash", targets=None, checkpointing=False, compiled=False, encoder=None,
        **changes,
    ):  # fmt: skip
        changes = {"unpacked": False, "vision": False, "projector": False} | changes
        backbone, adapter = (
            section.model_copy(update={k: v for k, v in changes.items() if k in vars(section)})
            for section in (cfg.backbone, cfg.adapter)
        )
        image = cfg.image.model_copy(update={"geometry": geometry})
        requested = RequestedModel(backbone, image, adapter)
        model = load_backbone(requested.backbone)
        if targets:
            peft = peft_config(requested.adapter, model)
            peft.target_modules = targets
            monkeypatch.setattr(count_trainer, "peft_config", lambda *_: peft)
        recipe = cfg.train.model_copy(
            update={"checkpointing": checkpointing, "compile": compiled, "augment": ()}
        )
        own = encoder or backbone_encoder(requested.backbone, requested.image)
        spec = TrainingSpec(rows, rows, requested.adapter, recipe, cfg.seed, tmp_path)
        trainer = CountTrainer(model, own, spec)
        return trainer, requested

    return call


def request(requested, section, **changes):
    sections = vars(requested) | {section: getattr(requested, section).model_copy(update=changes)}
    return RequestedModel(**sections)


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
        {"quantization": "fp8", "dtype": "bfloat16"},
    ],
)
def test_the_requested_model_has_no_fault(build, changes):
    checks = list(model_checks(*build(**changes)))
    assert [check.fault or check.note for check in checks] == [None] * 11


# --- 4-bit layers -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "fault"),
    [
        (["vision_tower", "multi_modal_projector", "lm_head"], r"linear_1 is in 4-bit \(\d+ more"),
        (backbones.NOT_QUANTIZED[:2], "lm_head is in 4-bit"),
        ([*backbones.NOT_QUANTIZED, "down_proj"], r"layers\.0\.mlp\.down_proj is not in 4-bit"),
    ],
)
def test_the_wrong_layers_in_4_bit(build, monkeypatch, kept, fault):
    monkeypatch.setattr(backbones, "NOT_QUANTIZED", kept)
    with pytest.raises(UserError, match=f"backbone.quantization: is nf4, but .*{fault}"):
        require_model(*build())


def test_4_bit_that_was_not_requested(build):
    trainer, requested = build()
    with pytest.raises(UserError, match=r"is none, but model\.language.* is in 4-bit \("):
        require_model(trainer, request(requested, "backbone", quantization="none"))


def test_fp8_and_4_bit_are_not_taken_for_each_other(build):
    trainer, requested = build(quantization="fp8")
    found = {check.name: check.found for check in model_checks(trainer, requested)}
    assert found["FP8 layers"] == "14 of 35 linear layers"
    for other in ("nf4", "none"):
        with pytest.raises(UserError, match=rf"is {other}, but model\.language.* \("):
            require_model(trainer, request(requested, "backbone", quantization=other))
    with pytest.raises(UserError, match=r"is fp8, but model\.language.* is in 4-bit \("):
        require_model(build()[0], requested)


# --- adapted layers ---------------------------------------------------------------------------


def test_adapters_on_layers_that_were_not_requested(build):
    with pytest.raises(UserError, match=r"adapter: .*projector.linear_1 has an adapter \(\d+ more"):
        require_model(*build(targets="all-linear"))
    with pytest.raises(UserError, match=r"adapter: .*mlp\.down_proj has no adapter \(\d+ more"):
        require_model(*build(targets=["q_proj", "v_proj"]))


def test_an_adapter_on_the_block_that_is_never_read(build, monkeypatch):
    monkeypatch.setattr(adapters, "VISION", adapters.VISION.replace("({})", r"(\d+|{})"))
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.fc1 has an adapter \(5 more"):
        require_model(*build(vision=True))


@pytest.mark.parametrize("part", ["vision", "projector"])
def test_a_requested_part_without_adapters(build, part):
    trainer, requested = build()
    with pytest.raises(
        UserError, match=rf"adapter: asks for adapters in language, {part}, but .* has no ad"
    ):
        require_model(trainer, request(requested, "adapter", **{part: True}))


def test_blocks_of_another_name(build, monkeypatch):
    """If transformers renames the tower's blocks, the adapter's pattern matches none."""
    monkeypatch.setattr(adapters, "VISION", r"model\.vision\.blocks\.({})\.fc1")
    monkeypatch.setattr(preflight, "BLOCK", "model.vision.blocks.{}.")
    with pytest.raises(UserError, match=r"model\.vision\.blocks\.0\. has no adapter"):
        require_model(*build(vision=True))


# --- numbers ----------------------------------------------------------------------------------


def test_bfloat16_adapters(build):
    trainer, requested = build()
    for parameter in tensors(trainer, "lora_"):
        parameter.data = parameter.data.bfloat16()  # as TRL leaves them
    with pytest.raises(UserError, match=r"28 of 28 adapter tensors are bfloat16"):
        require_model(trainer, requested)


def test_bfloat16_loses_small_steps():
    """One step changes few entries of a bfloat16 lora_A of width 4096, and all in float32."""
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
    trainer, requested = build()
    layer = next(m for m in llava(trainer).modules() if isinstance(m, Linear4bit))
    layer.compute_dtype = torch.bfloat16
    with pytest.raises(UserError, match="is float32, but the model computes in bfloat16, float32"):
        require_model(trainer, requested)


def test_another_dtype_than_requested(build):
    trainer, requested = build()
    with pytest.raises(UserError, match=r"is bfloat16, but the model computes in float32\. "):
        require_model(trainer, request(requested, "backbone", dtype="bfloat16"))


def test_autocast_of_another_dtype(build):
    trainer, requested = build()
    trainer.args.bf16 = True
    with pytest.raises(UserError, match="is float32, but the model computes in bfloat16, float32"):
        require_model(trainer, requested)


# --- text and image ---------------------------------------------------------------------------


def change_batches(trainer, change):
    """Wraps the trainer's collator so that it applies `change` to each batch."""
    own = trainer.data_collator

    def collate(rows):
        batch = own(rows)
        change(batch)
        return batch

    trainer.data_collator = collate


def test_labels_with_the_question(build):
    trainer, requested = build()
    change_batches(trainer, lambda batch: batch.update(labels=batch["input_ids"]))
    line = r"gives 31 label tokens that end in '.*:.12</s>', but the labels must be '12</s>'"
    with pytest.raises(UserError, match=line):
        require_model(trainer, requested)


def test_labels_without_eos(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.chat_template = encoder.processor.chat_template.replace("{{ eos_token }}", "")
    line = "gives 2 label tokens that end in '12', but the labels must be '12</s>'"
    with pytest.raises(UserError, match=line):
        require_model(*build(encoder=encoder))


def test_labels_with_the_space(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    whole, prompt = encoder.processor.chat_template.rsplit("' ASSISTANT: '", 1)
    encoder.processor.chat_template = f"{whole}' ASSISTANT:'{prompt}"
    line = r"gives 4 label tokens that end in '.12</s>', but the labels must be"
    with pytest.raises(UserError, match=line):
        require_model(*build(encoder=encoder))


@pytest.mark.parametrize(("bos", "where"), [("{{ bos_token }}" * 2, r"\[0, 1\]"), ("", r"\[\]")])
def test_bos_missing_or_twice(build, cfg, bos, where):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.chat_template = encoder.processor.chat_template.replace(
        "{{ bos_token }}", bos
    )
    with pytest.raises(UserError, match=rf"a training sequence has BOS at {where}, but needs it"):
        require_model(*build(encoder=encoder))


def test_another_prompt_at_prediction(build):
    trainer, requested = build()
    change_batches(trainer, lambda batch: batch["input_ids"][:, 1].add_(1))
    with pytest.raises(UserError, match="prompt tokens at prediction differ from the"):
        require_model(trainer, requested)


def test_another_number_of_image_tokens(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.patch_size = 28
    with pytest.raises(UserError, match="needs 16 image tokens, but its processor writes 4"):
        require_model(*build(encoder=encoder))


def test_another_image_size(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    trainer, requested = build(encoder=encoder)
    own = encoder.processor.image_processor
    change_batches(
        trainer, lambda batch: batch.update(pixel_values=batch["pixel_values"][..., :28])
    )
    assert encoder.processor.image_processor is own
    with pytest.raises(UserError, match="takes 56x56 pixels, but its processor gives 56x28"):
        require_model(trainer, requested)


def test_truncation(build):
    trainer, requested = build()
    trainer.args.max_length = 20
    with pytest.raises(UserError, match="needs whole sequences, but max_length cuts them to 20"):
        require_model(trainer, requested)


def test_rows_longer_than_the_model_takes(build):
    trainer, requested = build()
    llava(trainer).config.text_config.max_position_embeddings = 20
    with pytest.raises(UserError, match=r"reads 20 tokens at most, but a row has \d+"):
        require_model(trainer, requested)


def test_sides_cut_off_without_crop(build, cfg):
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    encoder.processor.image_processor = image_processor("crop", 56)
    with pytest.raises(UserError, match=r"is squash, but the sides of a 640x480 .* do not reach"):
        require_model(*build(encoder=encoder))


def test_sides_cut_off_by_crop_are_a_note(build):
    trainer, requested = build(geometry="crop")
    require_model(trainer, requested)
    notes = [check.note for check in model_checks(trainer, requested) if check.note]
    assert notes == [
        "image.geometry: is crop, which cuts off the sides of a 640x480 frame. "
        "Set it to pad or squash to keep them."
    ]


# --- gradients --------------------------------------------------------------------------------


def test_adapters_behind_a_tower_without_a_graph(build):
    trainer, requested = build(vision=True)
    tower = llava(trainer).model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)
    with pytest.raises(UserError, match=r"not 0 reaches .*vision_tower.* 23 more tensors\."):
        require_model(trainer, requested)


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "lora_magnitude_vector"])
def test_an_adapter_tensor_without_gradient(build, part):
    trainer, requested = build(method="dora")
    dead = tensors(trainer, part)[3]
    dead.requires_grad_(False)
    with pytest.raises(UserError, match=rf"finite and not 0 reaches [\w.]*{part}[\w.]*\. "):
        require_model(trainer, requested)


def test_a_gradient_of_zeros(build):
    trainer, requested = build()
    tensors(trainer, "lora_A")[3].data.zero_()
    with pytest.raises(UserError, match=r"finite and not 0 reaches [\w.]*lora_B[\w.]*\. "):
        require_model(trainer, requested)


def test_a_gradient_of_nan(build):
    trainer, requested = build()
    tensors(trainer, "lora_A")[0].data[0, 0] = torch.nan
    with pytest.raises(UserError, match="adapter: no gradient that is finite and not 0 reaches"):
        require_model(trainer, requested)


def test_a_frozen_tensor_that_requires_a_gradient(build):
    trainer, requested = build()
    llava(trainer).lm_head.weight.requires_grad_(True)
    with pytest.raises(UserError, match=r"training would also change [\w.]*lm_head\.weight\."):
        require_model(trainer, requested)


def test_a_pass_that_changes_weights(build):
    trainer, requested = build()
    linear = llava(trainer).model.multi_modal_projector.linear_1

    def change(module, *_):
        module.weight.data.mul_(1.001)

    linear.register_forward_hook(change)
    with pytest.raises(UserError, match=r"a pass changes .*projector.linear_1.weight, which"):
        require_model(trainer, requested)


def test_backward_through_a_frozen_tower(build):
    trainer, requested = build(checkpointing=True)
    require_model(trainer, requested)
    trainer.model.enable_input_require_grads()  # as TRL does for its own checkpointing
    with pytest.raises(UserError, match=r"adapter.vision: is false, but the backward pass goes"):
        require_model(trainer, requested)


def test_two_rows_that_do_not_fit_into_memory(build, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError

    trainer, requested = build()
    monkeypatch.setattr(trainer, "compute_loss", full)
    with pytest.raises(UserError, match=r"train.checkpointing: a batch of two rows does not fit"):
        require_model(trainer, requested)


# --- unchanged -------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(build, fails):
    trainer, _ = build(method="dora", dropout=0.1, checkpointing=True)
    model = trainer.model.eval()
    llava(trainer).lm_head.train()
    for parameter in tensors(trainer, "lora_B")[:3]:
        parameter.data.normal_()  # some methods do not start at 0

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
            gradient_report(trainer, batch)
    else:
        assert gradient_report(trainer, batch).without_gradient == []
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
            require_model(trainer, RequestedModel(cfg.backbone, cfg.image, adapter))
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
    requested = cfg.model_copy(update={"backbone": other})
    with pytest.raises(UserError, match=r"backbone\.quantization: is none"):
        stage.main(requested, tmp_path / "prepared", tmp_path / "adapter")


# --- doctor -----------------------------------------------------------------------------------


@pytest.fixture
def doctor(cfg, monkeypatch, tmp_path, capsys):
    """Runs `llava-dvc doctor` beside a data/; returns exit code and rows by check."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "frames").mkdir(parents=True)
    (tmp_path / "data" / "labels.csv").write_text("id,count\n1,12\n")
    monkeypatch.setattr(sys, "argv", ["llava-dvc", "doctor"])

    def call(tiles=(1, 1), **backbone):
        values = cfg.model_dump()
        values["image"]["tiles"] = tiles
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


def test_doctor_without_faults(doctor, rows, tmp_path):
    code, found = doctor()
    assert code is None
    assert {result for result, _ in found.values()} == {"ok"}
    assert found["labels"] == ["ok", "3</s>, 12</s>"]
    assert len(found) == 19
    assert found["training time"][1] == "not known before `dvc repro prepare` has made prepared/"
    rows.select([3, 4, 5]).save_to_disk(tmp_path / "prepared" / "train")
    rows.select([6]).save_to_disk(tmp_path / "prepared" / "val")
    code, found = doctor()
    assert code is None
    assert found["labels"] == ["ok", "40</s>, 31</s>"]
    # three frames, one in a batch
    pattern = r"about \d+\.\d minutes: \d+\.\d to begin, 3 steps of \d+\.\d\d s, 1 validations"
    assert re.fullmatch(pattern, found["training time"][1])
    assert re.fullmatch(r"about \d+\.\d GiB", found["training memory"][1])


def test_doctor_of_a_missing_folder(doctor):
    code, found = doctor(name="backbones/none")
    assert code == "error: 1 of these checks would stop a training"
    result, text = found["checkpoint"]
    assert result == "FAULT"
    line = "backbone.name: backbones/none/config.json does not exist. To restore tiny-llava, run"
    assert text.startswith(line)
    assert len(found) == 7


def test_doctor_with_tiles(doctor, tmp_path):
    code, found = doctor(tiles=(2, 2))
    assert code == "error: 1 of these checks would stop a training"
    assert found["tiles"][1].startswith("image.tiles: is [2, 2], but data/ has no points.csv")
    assert "labels" not in found  # nothing was loaded
    (tmp_path / "data" / "points.csv").write_text("id,x,y\n")
    code, found = doctor(tiles=(2, 2))
    assert code is None
    assert found["tiles"] == ["ok", "2 x 2, counted by points"]
    assert found["labels"] == ["ok", "3</s>, 12</s>"]  # of the first tiles


def test_doctor_without_data(doctor, tmp_path):
    """DVC's own line before the first stage is only "missing data 'source': data"."""
    remedy = "To restore it, run `git checkout data.dvc && dvc pull data.dvc`."
    shutil.rmtree(tmp_path / "data")
    for place in ("data: folder not found", "data/frames: not found"):
        code, found = doctor(name="backbones/none")
        assert code == "error: 2 of these checks would stop a training"
        result, text = found["data"]
        assert result == "FAULT"
        assert text.startswith(f"{place}. {remedy}")
        (tmp_path / "data").mkdir(exist_ok=True)


def test_doctor_without_the_folder_that_dvc_yaml_needs(doctor, tmp_path):
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    result, text = doctor(device="cuda")[1]["dvc.yaml"]
    assert result == "FAULT"
    assert text == (
        "path.backbone: backbones/tiny-llava does not exist, and dvc.yaml needs it. "
        "Run `dvc pull backbones/tiny-llava.dvc`."
    )
    (tmp_path / "backbones" / "tiny-llava").mkdir(parents=True)
    assert "dvc.yaml" not in doctor(device="cuda")[1]


def test_doctor_of_a_faulty_model(doctor, monkeypatch):
    monkeypatch.setattr(backbones, "NOT_QUANTIZED", ["model.vision_tower"])
    code, found = doctor()
    assert code == "error: 1 of these checks would stop a training"
    assert found["4-bit layers"][0] == "FAULT"
    assert "adapters learn" not in found


def test_doctor_of_a_folder_that_does_not_load(doctor, tiny_folder, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in tiny_folder.iterdir():
        if not file.name.startswith("tokenizer"):
            (broken / file.name).write_bytes(file.read_bytes())
    code, found = doctor(name=str(broken))
    assert code == "error: 1 of these checks would stop a training"
    assert "cannot be loaded" in found["model"][1]
