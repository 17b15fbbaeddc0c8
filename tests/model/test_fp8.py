"""FP8 layers: rounded as by hand, near float32, and trained and counted with on a CPU."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor

from llava_dvc.config import Config
from llava_dvc.conversation import question_text
from llava_dvc.errors import UserError
from llava_dvc.evaluation.merged_weights import merge_and_compile
from llava_dvc.model.adapter import load_adapter, save_adapter
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.fp8 import fused
from llava_dvc.model.fp8.fused import FusedFp8Lora
from llava_dvc.model.fp8.linear import Fp8Linear, quantize_layers
from llava_dvc.model.fp8.products import E4M3, multiply_rows, quantize_rows
from llava_dvc.model.fused_layer import Heads, gated, rotated
from llava_dvc.model.fused_lora import fuse_lora, keep_copies, sync_weights
from llava_dvc.training.collator import Collator
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec, adapter_weights, fit
from tests.evaluation.test_merged_weights import tuned
from tests.model.test_model_patches import changed, loss_and_gradients, trainer_of
from tests.recipes import recipe

HALF_STEP = 2**-4
"""The largest relative error of e4m3: half a step of its three digits behind the point."""


@pytest.fixture(scope="module")
def fp8_cfg(cfg: Config) -> Config:
    return changed(cfg, backbone={"quantization": "fp8"}, train={"checkpointing": False})


def quantized(weight: Tensor) -> Fp8Linear:
    layer = torch.nn.Linear(weight.shape[1], len(weight), bias=False)
    layer.weight.data = weight
    return Fp8Linear.of(layer, torch.device("cpu"))


# --- products ---------------------------------------------------------------------------------


def test_a_product_by_hand() -> None:
    """448 is the largest number, so the scale of x is 1. Near 0.3 the step is 1/32."""
    x, weight = torch.tensor([[448.0, 0.3]]), torch.tensor([[2.0, 2.0], [0.0, -448.0]])
    rounded, scale = quantize_rows(x)
    assert scale.tolist() == [[1.0]]
    assert rounded.float().tolist() == [[448.0, 0.3125]]
    torch.testing.assert_close(quantized(weight)(x), torch.tensor([[896.625, -140.0]]))


def test_rounding_is_by_half_a_step_at_most() -> None:
    x = torch.randn(64, 256) * torch.logspace(-8, 4, 64)[:, None]
    rounded, scale = quantize_rows(x)
    error = (rounded.float() * scale - x).abs()
    smallest_step = 2**-9 * scale
    assert (error <= (HALF_STEP * x.abs()).maximum(smallest_step / 2) * 1.0001).all()
    assert error.max() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_product_and_its_gradient_are_near_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    x, weight = torch.randn(40, 256, dtype=dtype, requires_grad=True), torch.randn(96, 256)
    weight *= torch.logspace(-2, 2, 96)[:, None]  # rows of other sizes, so other scales
    out = torch.randn(40, 96, dtype=dtype)
    layer = quantized(weight.to(dtype))
    found = layer(x)
    found.backward(out)
    assert (found.dtype, x.grad.dtype) == (dtype, dtype)
    expected = x.detach().float() @ weight.T
    assert relative_error(found.detach(), expected) < HALF_STEP
    assert relative_error(x.grad, out.float() @ weight) < HALF_STEP
    bound = 2.2 * HALF_STEP * (x.detach().float().abs() @ weight.T.abs())
    assert ((found.detach() - expected).abs() <= bound + 0.01 * expected.abs()).all()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def test_rows_of_zeros_stay_zeros() -> None:
    """The loss of the answer alone makes such gradients."""
    x = torch.randn(4, 32)
    x[1] = 0
    x.requires_grad_()
    weight = torch.randn(16, 32)
    weight[2] = 0
    found = quantized(weight)(x)
    gradient = torch.randn(4, 16)
    gradient[3] = 0
    found.backward(gradient)
    assert found.isfinite().all()
    assert x.grad.isfinite().all()
    assert not found[1].any()
    assert not found[:, 2].any()
    assert not x.grad[3].any()


def test_a_transposed_copy_changes_no_gradient() -> None:
    layer, gradients = quantized(torch.randn(16, 32)), []
    for keep in (False, True):
        if keep:
            layer.keep_transposed()
            assert layer.transposed.shape == (32, 16)
        torch.manual_seed(4)
        x = torch.randn(4, 32, requires_grad=True)
        layer(x).sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_the_gpu_product_is_the_emulated_one() -> None:
    """torch has the operator on a CPU too. It checks layouts, shapes and types as on a GPU."""
    x, weight = quantize_rows(torch.randn(7, 64)), quantize_rows(torch.randn(48, 64))
    expected = multiply_rows(*x, *weight, torch.bfloat16)
    found = torch._scaled_mm(
        x[0], weight[0].t(), scale_a=x[1], scale_b=weight[1].t(), out_dtype=torch.bfloat16
    )
    torch.testing.assert_close(found, expected, rtol=2**-7, atol=1e-2)


# --- training ---------------------------------------------------------------------------------


@pytest.fixture
def batch(encoder: Encoder, rows: Dataset) -> dict:
    return Collator(encoder)([rows[0], rows[1], rows[5]])


def test_adapters_learn_nearly_as_on_float32_weights(
    fp8_cfg: Config, encoder: Encoder, rows: Dataset, batch: dict, tmp_path: Path
) -> None:
    """Fused FP8 layers give what single ones give, and are near float32."""
    whole = changed(fp8_cfg, backbone={"quantization": "none"})
    exact, expected = loss_and_gradients(trainer_of(whole, encoder, rows, tmp_path / "1"), batch)
    single = trainer_of(fp8_cfg, encoder, rows, tmp_path / "2")
    loss, plain = loss_and_gradients(single, batch)
    assert loss == pytest.approx(exact, rel=0.02)
    names = sorted(expected)
    ours, theirs = (torch.cat([found[n].flatten() for n in names]) for found in (plain, expected))
    assert 0.001 < relative_error(ours, theirs) < 0.2
    together = trainer_of(fp8_cfg, encoder, rows, tmp_path / "3")
    assert len(fuse_lora(together.model.get_base_model().model)) == 1
    loss, found = loss_and_gradients(together, batch)
    assert loss == pytest.approx(exact, rel=0.02)
    assert relative_error(torch.cat([found[n].flatten() for n in names]), theirs) < 0.2
    for name in names:  # a token's gradients of query, key and value share one scale here
        assert relative_error(found[name], plain[name]) < HALF_STEP, name


@pytest.fixture(params=[False, True], ids=["lean", "copied"])
def product(request: pytest.FixtureRequest) -> FusedFp8Lora:
    torch.manual_seed(6)
    layers = torch.nn.ModuleDict({n: torch.nn.Linear(32, 48, bias=False) for n in "ab"})
    quantize_layers(layers, torch.device("cpu"))
    adapter = LoraConfig(r=4, target_modules=["a", "b"], init_lora_weights=False)
    adapted = get_peft_model(layers, adapter).base_model.model
    product = FusedFp8Lora([adapted["a"], adapted["b"]])
    if request.param:
        product.keep_transposed()
    return product


@pytest.mark.parametrize("outputs", [96, 48])
def test_a_compiled_product_gives_the_same_gradients(product: FusedFp8Lora, outputs: int) -> None:
    run = product if outputs == 96 else product.gated
    x, out = torch.randn(5, 32, requires_grad=True), torch.randn(5, outputs)
    learnt = [x, *product.lora_a, *product.lora_b]
    expected = torch.autograd.grad(run(x), learnt, out)
    assert all(gradient.any() for gradient in expected)
    compiled: Any = torch.compile(run, dynamic=False, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x), learnt, out)
    torch.testing.assert_close(found, expected)


def test_rotated_heads_have_the_gradients_of_their_parts(product: FusedFp8Lora) -> None:
    angles = torch.rand(1, 5, 4).repeat(1, 1, 2)
    given = (angles.cos(), angles.sin()), Heads(4, 4, 4, 8)
    hidden, outs = torch.randn(2, 5, 32, requires_grad=True), torch.randn(3, 2, 4, 5, 8)
    learnt = [hidden, *product.lora_a, *product.lora_b]

    def gradients(heads: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(heads, learnt, tuple(outs))

    parts = rotated(product(hidden.flatten(0, 1)).view(2, 5, -1), *given)
    torch.testing.assert_close(product.rotated(hidden, *given), parts)
    expected = gradients(parts)
    assert all(gradient.any() for gradient in expected)
    torch.testing.assert_close(gradients(product.rotated(hidden, *given)), expected)
    compiled: Any = torch.compile(
        product.rotated, dynamic=False, backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(gradients(compiled(hidden, *given)), expected)


def test_a_gated_product_has_the_gradients_of_its_parts(product: FusedFp8Lora) -> None:
    x, out = torch.randn(5, 32, requires_grad=True), torch.randn(5, 48)
    sync_weights([product])
    learnt = [x, *product.lora_a, *product.lora_b]
    parts = gated(product(x))
    torch.testing.assert_close(product.gated(x), parts)
    expected = torch.autograd.grad(parts, learnt, out)
    torch.testing.assert_close(torch.autograd.grad(product.gated(x), learnt, out), expected)


def test_training_and_counting(
    fp8_cfg: Config, encoder: Encoder, rows: Dataset, tmp_path: Path
) -> None:
    """One epoch, saved, loaded, counted plainly and compiled. recipe.json names FP8."""
    few, fp8_cfg = rows.select(range(4)), changed(fp8_cfg, train={"learning_rate": 1e-2})
    spec = TrainingSpec(few, few, fp8_cfg.adapter, fp8_cfg.train, 3, tmp_path / "checkpoints")
    model = load_backbone(fp8_cfg.backbone)
    before = model.model.language_model.layers[0].mlp.up_proj.weight.clone()
    trained = fit(CountTrainer(model, encoder, spec))
    save_adapter(
        trained.model, adapter_weights(trained.model), encoder, recipe(fp8_cfg), tmp_path / "a"
    )
    (plain, reader, found), (compiled, _, _) = (load_adapter(tmp_path / "a") for _ in range(2))
    assert found.backbone.quantization == "fp8"
    merge_and_compile(compiled, backend="eager")
    layers = plain.get_base_model().model.language_model.layers
    assert torch.equal(layers[0].mlp.up_proj.get_base_layer().weight, before)
    images, question = list(rows["image"])[:2], question_text(rows[0]["messages"])
    one, other, untuned = (
        CountPredictor(m, reader, question, 60).predict(images, 2)
        for m in (plain, compiled, load_backbone(fp8_cfg.backbone))
    )
    assert abs(one.probabilities - other.probabilities).max() < 2e-3
    assert abs(one.probabilities - untuned.probabilities).max() > 1e-2


def test_only_the_language_models_linear_layers_are_rounded(fp8_cfg: Config, cfg: Config) -> None:
    model = load_backbone(fp8_cfg.backbone)
    rounded = {name for name, m in model.named_modules() if isinstance(m, Fp8Linear)}
    assert len(rounded) == 14
    assert all(name.startswith("model.language_model.layers.") for name in rounded)
    whole = load_backbone(changed(cfg, backbone={"quantization": "none"}).backbone)
    for name in rounded:
        layer, weight = model.get_submodule(name), whole.get_submodule(name).weight
        assert relative_error(layer.e4m3().float() * layer.scale, weight) < HALF_STEP / 2
    assert not any(p.requires_grad for p in model.parameters())


def test_a_fused_layer_shares_its_weights(fp8_cfg: Config) -> None:
    model = tuned(fp8_cfg).get_base_model()
    layer = model.model.language_model.layers[0]
    fuse_lora(model.model)
    product = model.model.language_model.layers[0].fused[0].after.gate_up
    own = layer.mlp.up_proj.get_base_layer().weight
    assert own.untyped_storage().data_ptr() == product.weight.untyped_storage().data_ptr()


def test_fused_and_other_layers_keep_copies(fp8_cfg: Config) -> None:
    llava = tuned(fp8_cfg).get_base_model().model
    [layer] = fuse_lora(llava)
    keep_copies(llava)
    parts = [*layer.modules(), *llava.language_model.layers[-1].modules()]
    copies = [part.transposed for part in parts if isinstance(part, FusedFp8Lora | Fp8Linear)]
    assert len(copies) == 4 + 7
    assert all(copy.dtype == E4M3 for copy in copies)


def test_copies_without_room_are_one_line(fp8_cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    llava = tuned(fp8_cfg).get_base_model().model
    assert len(fuse_lora(llava)) == 1
    monkeypatch.setattr(fused, "transposed_copy", full)
    with pytest.raises(UserError, match=r"checkpointing: the copies of .* set it to true"):
        keep_copies(llava)


def test_dora_is_refused(fp8_cfg: Config, adapter_folder: Path, tmp_path: Path) -> None:
    """In the settings, and in a folder whose recipe.json was changed to FP8."""
    with pytest.raises(ValueError, match=r"adapter\.method: is dora, .* Set method to lora"):
        changed(fp8_cfg, adapter={"method": "dora"})
    folder = tmp_path / "adapter"
    shutil.copytree(adapter_folder, folder)
    recipe(fp8_cfg).write(folder)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_dora": True}))
    with pytest.raises(UserError, match=r"use_dora: is True: recipe\.json has an FP8 backbone"):
        load_adapter(folder)
