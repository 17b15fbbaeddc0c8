"""Adapters that are not whole, or not those of the backbone: refused with one line."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file, save_file

from llava_dvc.config import Adapter, Config
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.model.adapter import load_adapter, peft_config, save_adapter
from llava_dvc.model.adapter_check import expected_shapes
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.counting import CountPredictor
from llava_dvc.recipe import MANIFEST, WEIGHTS, backbone_digest, manifest_entry, weight_shapes
from llava_dvc.training.count_trainer import adapter_weights
from tests.conftest import frame
from tests.recipes import recipe

Change = Callable[[Path], Any]
QUERY = "base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 123\n"


@pytest.fixture
def folder(adapter_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(adapter_folder, tmp_path / "adapter"))


def change_weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def changed(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        tensors = change(tensors) or tensors
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return changed


def change_json(name: str, **values: Any) -> Change:
    def changed(folder: Path) -> None:
        stored = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(stored | values))

    return changed


def change_config(**values: Any) -> Change:
    return change_json("adapter_config.json", **values)


def write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str, keep: float) -> Change:
    def changed(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * keep)])

    return changed


def remove(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def set_value(value: float) -> Change:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[QUERY][0, 0] = value

    return change_weights(change)


def add_manifest(folder: Path, cfg: Config) -> None:
    entries = [manifest_entry(folder, path.name) for path in sorted(folder.iterdir())]
    digest = next(entry["sha256"] for entry in entries if entry["path"] == WEIGHTS)
    inputs = {"backbone": backbone_digest(cfg.backbone)}
    manifest = {"adapter_sha256": digest, "inputs_md5": inputs, "evaluate": {}, "files": entries}
    write_json(folder / MANIFEST, manifest)


def refusal(folder: Path) -> str:
    """The one line that `load_adapter` raises, without the folder that it starts with."""
    with pytest.raises(UserError) as caught:
        load_adapter(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 600
    assert text.startswith(str(folder))
    return text.removeprefix(f"{folder}/")


WEIGHT_FAULTS: list[tuple[Change, str]] = [
    (
        change_weights(lambda t: {n: t[n] for n in t if n != QUERY}),
        f"tensor {QUERY} is missing; use a complete",
    ),
    (
        change_weights(lambda t: {n: w for n, w in t.items() if "language_model" not in n}),
        "layers.0.mlp.down_proj.lora_A.weight is missing (28 tensors are wrong like this)",
    ),
    (lambda f: save_file({}, f / WEIGHTS), "is missing ("),
    (
        change_weights(lambda t: t | {"base_model.model.lm_head.weight": torch.zeros(2)}),
        "tensor base_model.model.lm_head.weight is in no layer to adapt; use",
    ),
    (
        change_weights(lambda t: t | {"evil\n\x1b[31m" + "x" * 9999: torch.zeros(2)}),
        "tensor evil [31mxxx",
    ),
    (
        change_weights(lambda t: {n.replace(".weight", ".default.weight"): t[n] for n in t}),
        "is missing (",
    ),
    (change_weights(lambda t: {n.partition(".")[2]: t[n] for n in t}), "is missing ("),
    (
        change_weights(lambda t: t | {QUERY: t[QUERY][:, :-1].contiguous()}),
        f"tensor {QUERY} has the shape [4, 63], expected [4, 64]; use",
    ),
    (
        change_weights(lambda t: t | {QUERY: t[QUERY].T.contiguous()}),
        "has the shape [64, 4], expected [4, 64]",
    ),
    (
        change_weights(lambda t: {n: w.half() for n, w in t.items()}),
        "is F16, expected F32; use",
    ),
    (change_weights(lambda t: t | {QUERY: t[QUERY].bfloat16()}), "is BF16, expected F32"),
    (set_value(float("nan")), f"tensor {QUERY} is not finite; use a complete adapter folder"),
    (set_value(float("-inf")), f"tensor {QUERY} is not finite"),
    (
        write(WEIGHTS, POINTER),
        f"{WEIGHTS}: is a Git LFS pointer, not the file itself; run `git lfs pull`",
    ),
    (write(WEIGHTS, ""), f"{WEIGHTS}: cannot be read (cut off, or not safetensors: "),
    (write(WEIGHTS, "<!DOCTYPE html><html>Sign in</html>"), "cannot be read (cut off, or not saf"),
    (cut(WEIGHTS, 0.5), f"{WEIGHTS}: cannot be read (cut off, or not safetensors: "),
    (cut(WEIGHTS, 0.01), f"{WEIGHTS}: cannot be read (cut off, or not safetensors: "),
    (remove(WEIGHTS), f"{WEIGHTS}: not found; use a complete adapter folder, or build it"),
]


@pytest.mark.parametrize(("change", "line"), WEIGHT_FAULTS, ids=range(len(WEIGHT_FAULTS)))
def test_weights_that_are_not_whole_are_refused(folder, change, line):
    change(folder)
    said = refusal(folder)
    assert said.startswith(f"{WEIGHTS}: ")
    assert line in said


CONFIG_FAULTS: list[tuple[Change, str]] = [
    (change_config(r=8), "has the shape [4, "),
    (change_config(r=10**9), "has the shape [4, "),
    (change_config(r=0), "r: is 0: Input should be greater than or equal to 1; use"),
    (change_config(r="4"), "r: is '4': Input should be a valid integer"),
    (change_config(r=True), "r: is True: Expected a number"),
    (change_config(r=None), "r: is None: "),
    (change_config(lora_alpha=float("nan")), "lora_alpha: is nan: Input should be"),
    (change_config(lora_alpha=-8), "lora_alpha: is -8: Input should be greater than 0"),
    (change_config(lora_alpha=10**400), "lora_alpha: is "),
    (change_config(lora_dropout=2), "lora_dropout: is 2: Input should be less than 1"),
    (change_config(use_dora=True), "lora_magnitude_vector is missing ("),
    (change_config(use_dora=True, use_rslora=True), "use_rslora: is True: expected false"),
    (change_config(target_modules=["q_proj", "v_proj"]), "target_modules: is ['q_proj', 'v_proj']"),
    (change_config(target_modules="all-linear"), "target_modules: is 'all-linear': expected the"),
    (change_config(target_modules="(a+)+$"), "target_modules: is '(a+)+$': expected the layers"),
    (change_config(target_modules=None), "target_modules: is None: expected the layers"),
    (change_config(modules_to_save=["lm_head"]), "modules_to_save: is ['lm_head']: expected null"),
    (change_config(rank_pattern={"q_proj": 2}), "rank_pattern: is {'q_proj': 2}: expected {}"),
    (change_config(alpha_pattern={"q_proj": 2}), "alpha_pattern: is {'q_proj': 2}: expected {}"),
    (change_config(layers_to_transform=[0]), "layers_to_transform: is [0]: expected null"),
    (change_config(layer_replication=[[0, 2]]), "layer_replication: is [[0, 2]]: expected null"),
    (change_config(init_lora_weights="pissa"), "init_lora_weights: is 'pissa': expected true"),
    (change_config(bias="all"), "bias: is 'all': expected \"none\""),
    (change_config(fan_in_fan_out=True), "fan_in_fan_out: is True: expected false"),
    (change_config(peft_type="IA3"), "peft_type: is 'IA3': expected \"LORA\""),
    (change_config(task_type="SEQ_CLS"), "task_type: is 'SEQ_CLS': expected \"CAUSAL_LM\""),
    (change_config(of_tomorrow=[1]), "of_tomorrow: is [1]: expected null"),
    (change_config(base_model_name_or_path="other/llava"), "base_model_name_or_path: is 'other/"),
    (change_config(revision="0" * 40), "revision: is '000"),
    (write("adapter_config.json", "{}"), "base_model_name_or_path: is None"),
    (write("adapter_config.json", "[]"), "cannot be read (not a JSON object)"),
    (write("adapter_config.json", "[" * 100_000), "cannot be read (not JSON: "),
    (write("adapter_config.json", POINTER), "is a Git LFS pointer"),
    (cut("adapter_config.json", 0.5), "cannot be read (not JSON: "),
    (lambda f: (f / "adapter_config.json").write_bytes(b"\xff{}"), "cannot be read (not JSON: "),
    (
        remove("adapter_config.json"),
        "adapter_config.json: not found; use a complete adapter folder",
    ),
]


@pytest.mark.parametrize(("change", "line"), CONFIG_FAULTS, ids=range(len(CONFIG_FAULTS)))
def test_settings_that_llava_dvc_does_not_write_are_refused(folder, change, line):
    change(folder)
    assert line in refusal(folder)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        *[
            (remove(name), f"{name}: not found; use a complete adapter folder")
            for name in ("tokenizer.json", "tokenizer_config.json", "processor_config.json")
        ],
        (write("tokenizer.json", POINTER), "tokenizer.json: is a Git LFS pointer"),
        (cut("tokenizer.json", 0.5), "tokenizer.json: cannot be read (not JSON: "),
        (write("tokenizer.json", "{}"), "processor_config.json: cannot be read (no processor of"),
        (write("processor_config.json", "{}"), "processor_config.json: "),
        (
            change_json("processor_config.json", patch_size=7),
            "patch_size: is 7: the backbone has 14",
        ),
        (
            change_json("tokenizer_config.json", pad_token=None),
            "tokenizer_config.json: pad_token: is None: the backbone has one",
        ),
        (
            change_json("processor_config.json", num_additional_image_tokens=10**9),
            "num_additional_image_tokens: is 1000000000: the backbone has 1",
        ),
        (
            change_json("processor_config.json", vision_feature_select_strategy="full"),
            "vision_feature_select_strategy: is 'full': the backbone has default",
        ),
        (
            lambda f: os.truncate(f / "tokenizer.json", 2**30),
            "tokenizer.json: has 1,073,741,824 bytes, more than 67,108,864; use a complete",
        ),
        (
            change_json(
                "tokenizer_config.json", image_token="<s>", model_specific_special_tokens={}
            ),
            "id of the image token: is ",
        ),
    ],
)
def test_a_processor_that_is_not_whole_is_refused(folder, change, line):
    change(folder)
    assert line in refusal(folder)


def test_more_tokens_than_the_backbone_has_are_refused(folder):
    stored = json.loads((folder / "tokenizer.json").read_text())
    new = stored["added_tokens"][0] | {"id": 99_999, "content": "<new>"}
    stored["added_tokens"].append(new)
    (folder / "tokenizer.json").write_text(json.dumps(stored))
    assert "number of tokens: is " in refusal(folder)


def test_a_backbone_of_another_shape_is_refused(folder, cfg, tmp_path):
    other = Path(shutil.copytree(cfg.backbone.name, tmp_path / "other"))
    change_json("adapter_config.json", base_model_name_or_path=str(other))(folder)
    recipe(cfg, backbone=cfg.backbone.model_copy(update={"name": str(other)})).write(folder)
    load_adapter(folder)
    smaller = json.loads((other / "config.json").read_text())
    smaller["text_config"]["num_hidden_layers"] = 1
    (other / "config.json").write_text(json.dumps(smaller))
    assert "is in no layer to adapt (14 tensors are wrong like this)" in refusal(folder)


PUBLISHED_FAULTS: list[tuple[Change, str]] = [
    (change_config(lora_alpha=16.0), "adapter_config.json: is changed since manifest.json was wri"),
    (change_config(use_rslora=True), "adapter_config.json: is changed since manifest.json was"),
    (set_value(0.5), f"{WEIGHTS}: is changed since manifest.json was written; use a complete"),
    (change_json("recipe.json", temperature=3.0), "recipe.json: is changed since manifest.json"),
    (change_json("tokenizer_config.json", legacy=1), "tokenizer_config.json: is changed since"),
    (write("added_tokens.json", "{}"), "added_tokens.json: is new since manifest.json was written"),
    (
        write(MANIFEST, "{}"),
        "manifest.json: is not a manifest of llava-dvc. Name a folder that the",
    ),
    (write(MANIFEST, POINTER), "manifest.json: is a Git LFS pointer"),
    (cut(MANIFEST, 0.5), "manifest.json: cannot be read (not JSON: "),
    (change_json(MANIFEST, files=[{"path": 1}]), "manifest.json: is not a manifest of llava-dvc."),
    (change_json(MANIFEST, adapter_sha256="0" * 64), f"{WEIGHTS}: is changed since"),
    (
        change_json(MANIFEST, inputs_md5={"backbone": "0" * 32}),
        "manifest.json: inputs_md5.backbone: is not the digest of the weights in ",
    ),
]


@pytest.mark.parametrize(("change", "line"), PUBLISHED_FAULTS, ids=range(len(PUBLISHED_FAULTS)))
def test_a_folder_that_differs_from_its_manifest_is_not_loaded(folder, cfg, change, line):
    add_manifest(folder, cfg)
    change(folder)
    assert line in refusal(folder)


def test_a_published_folder_as_the_hub_gives_it_is_loaded(folder, cfg):
    (folder / "README.md").write_text("# Card\n")
    add_manifest(folder, cfg)
    (folder / "README.md").write_text("# Card, edited on the Hub\n")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    load_adapter(folder)


def old_name(name: str) -> str:
    """As transformers before 4.52 wrote it."""
    for new, old in {
        "base_model.model.model.language_model.": "base_model.model.language_model.model.",
        "base_model.model.model.multi_modal": "base_model.model.multi_modal",
        "base_model.model.model.vision_tower.": "base_model.model.vision_tower.vision_model.",
    }.items():
        name = name.replace(new, old)
    return name


def newer_name(name: str) -> str:
    """As transformers 4.52 to 4.57 wrote it."""
    return name.replace("model.vision_tower.", "model.vision_tower.vision_model.")


def counts(folder: Path) -> Any:
    model, encoder, stored = load_adapter(folder)
    predictor = CountPredictor(model, encoder, stored.question, 20)
    return predictor.predict([frame(1), frame(2)], 2).probabilities


@pytest.mark.parametrize("rename", [old_name, newer_name])
def test_old_names_of_tensors_count_the_same(folder, rename):
    before = counts(folder)
    change_weights(lambda t: {rename(n): w for n, w in t.items()})(folder)
    assert not any("vision_tower.encoder" in name for name in weight_shapes(folder))
    assert (counts(folder) == before).all()


def test_old_names_that_are_not_all_there_are_refused(folder):
    change_weights(lambda t: {old_name(n): w for n, w in t.items() if n != QUERY})(folder)
    assert f"tensor {QUERY} is missing; use" in refusal(folder)


def test_a_tensor_under_two_names_is_refused(folder):
    change_weights(lambda t: t | {old_name(QUERY): t[QUERY] + 1})(folder)
    assert "is there under an old name too; use" in refusal(folder)


@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "lora_plus"])
@pytest.mark.parametrize(("projector", "vision"), [(True, True), (False, False), (True, False)])
def test_every_adapter_that_train_writes_is_loaded(
    cfg, encoder, tmp_path, method, projector, vision
):
    values = cfg.adapter.model_dump() | {"projector": projector, "vision": vision}
    section = Adapter(**values | {"method": method, "dropout": 0.1, "alpha": 3})
    backbone = load_backbone(cfg.backbone)
    built = peft_config(section, backbone)
    expected = expected_shapes(backbone, built)
    model = get_peft_model(backbone, built)
    save_adapter(model, adapter_weights(model), encoder, recipe(cfg), tmp_path)
    assert weight_shapes(tmp_path) == expected
    loaded, _, _ = load_adapter(tmp_path)
    trained = {n: p for n, p in model.named_parameters() if ".lora_" in n}
    assert all(torch.equal(p, loaded.get_parameter(n)) for n, p in trained.items())


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            write("chat_template.jinja", "{{ 'answer 7' }}"),
            "is not the chat template of this versi",
        ),
        (write("chat_template.jinja", POINTER), "is a Git LFS pointer"),
        (write("chat_template.jinja", "{{ 'a' * 20000000000 }}"), "is not the chat template of"),
        (remove("chat_template.jinja"), "not found; use a complete adapter folder"),
    ],
)
def test_a_foreign_chat_template_is_refused(folder, change, line):
    change(folder)
    assert refusal(folder).startswith(f"chat_template.jinja: {line}")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.model", "more/a.jinja"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_a_pipe_or_a_device_is_refused(folder, name, make):
    (folder / name).parent.mkdir(exist_ok=True)
    make(folder / name)
    said = refusal(folder)
    assert said == f"{name}: is not a regular file; delete it, or put the file itself there"
