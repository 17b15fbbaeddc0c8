"""Counting with folded adapters gives the answers of the layers they came from."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import LlavaForConditionalGeneration

from llava_dvc.config import Config
from llava_dvc.conversation import question_text
from llava_dvc.evaluation.merged_weights import MergedLinear, merge_and_compile, round_at_random
from llava_dvc.model.adapter import load_adapter, peft_config, save_adapter
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.counting import CountPredictor
from llava_dvc.model.encoder import Encoder
from llava_dvc.model.fused_layer import FusedLayer
from llava_dvc.publishing.merged_model import merge
from llava_dvc.training.count_trainer import adapter_weights
from tests.model.test_model_patches import changed
from tests.recipes import recipe


def tuned(cfg: Config) -> LlavaForConditionalGeneration:
    """A backbone with an adapter that says something."""
    model = load_backbone(cfg.backbone)
    torch.manual_seed(5)
    model = get_peft_model(model, peft_config(cfg.adapter, model))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
        elif "magnitude" in name:
            parameter.data *= torch.rand_like(parameter) + 0.5
    return model.eval()


@pytest.mark.parametrize("method", ["lora", "rslora", "dora"])
@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_folded_layers_answer_alike(
    method: str, quantization: str, cfg: Config, encoder: Encoder, rows: Dataset
) -> None:
    cfg = changed(cfg, adapter={"method": method}, backbone={"quantization": quantization})
    plain, folded = tuned(cfg), tuned(cfg)
    untuned = load_backbone(cfg.backbone)
    merge_and_compile(folded, backend="aot_eager")
    images = list(rows["image"])[:5]  # a batch and one
    question = question_text(rows[0]["messages"])
    one, other, without = (
        CountPredictor(model, encoder, question, 60).predict(images, 4)
        for model in (plain, folded, untuned)
    )
    assert one.replies == other.replies
    assert abs(one.probabilities - other.probabilities).max() < 1e-6
    assert abs(one.probabilities - without.probabilities).max() > 1e-4


def test_the_last_layer_answers_alike_for_every_number_of_rows(cfg: Config) -> None:
    """The rows that it reads of one frame are a view of its input. It must not write there:
    compiled code can fail on that.
    """
    language = tuned(cfg).get_base_model().model.language_model
    plain, folded = language.layers[-1], FusedLayer(language.layers[-1], MergedLinear)
    plain.kept = folded.kept = slice(-5, None)
    for rows in range(1, 34):
        hidden = torch.randn(rows, 12, 64)
        embeddings = language.rotary_emb(hidden, torch.arange(12)[None])
        given = hidden.clone()
        with torch.no_grad():
            expected = plain(given, position_embeddings=embeddings)
            found = folded(given, position_embeddings=embeddings)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(given, hidden), rows


def test_what_is_folded_is_let_go(cfg: Config) -> None:
    model = tuned(cfg)
    merge_and_compile(model, backend="aot_eager")
    layers = model.get_base_model().model.language_model.layers
    assert [name for name, _ in layers.named_parameters() if "norm" not in name] == []


def test_layers_that_share_an_input_are_one_product() -> None:
    first, second = torch.nn.Linear(6, 3, bias=False), torch.nn.Linear(6, 2, bias=False)
    x = torch.randn(4, 6)
    expected = torch.cat([first(x), second(x)], dim=-1)
    torch.testing.assert_close(MergedLinear([first, second])(x), expected)


def test_a_product_is_added_in_place() -> None:
    layer, x, total = torch.nn.Linear(6, 3, bias=False), torch.randn(4, 6), torch.randn(4, 3)
    before = total.clone()
    assert MergedLinear([layer]).add_to(total, x) is total
    torch.testing.assert_close(total, before + layer(x))


def test_an_adapter_smaller_than_the_last_bit_is_not_lost() -> None:
    """As one is after some steps with a small learning rate; rounded to the nearest it would be."""
    torch.manual_seed(5)
    base = torch.nn.Linear(2048, 256, bias=False, dtype=torch.bfloat16)
    base.weight.data = base.weight.sign() * torch.empty_like(base.weight).uniform_(2**-6, 2**-5)
    layer = get_peft_model(
        torch.nn.Sequential(base), LoraConfig(r=4, target_modules=["0"])
    ).base_model.model[0]
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    torch.nn.init.normal_(up, std=1e-4)
    learnt = layer.scaling["default"] * (up.detach() @ down.detach())
    last_bit = 2**-13
    assert learnt.abs().max() < last_bit / 2
    x, before = down.detach().sum(dim=0), base.weight.detach().float()
    expected = learnt @ x
    found = (MergedLinear([layer]).weight.float() - before) @ x
    assert (found - expected).norm() < 0.2 * expected.norm()
    nearest = ((before + learnt).bfloat16().float() - before) @ x
    assert (nearest - expected).norm() > 0.8 * expected.norm()
    other = torch.randn(2048)  # nothing that was learnt for: what is done at random is no more
    exact = (before + learnt) @ other  # than the rounding of the answer
    noise = MergedLinear([layer]).weight.float() @ other - exact
    assert noise.norm() < (exact.bfloat16() - exact).norm()


def test_a_model_merged_in_16_bits_keeps_a_small_adapter(
    cfg: Config, encoder: Encoder, tmp_path: Path
) -> None:
    cfg = changed(cfg, backbone={"quantization": "none", "dtype": "bfloat16"})
    model = tuned(cfg)
    layers = {n: m for n, m in model.named_modules() if isinstance(m, LoraLayer)}
    for layer in layers.values():
        layer.lora_B["default"].weight.data *= 1e-3
    save_adapter(model, adapter_weights(model), encoder, recipe(cfg), tmp_path / "adapter")
    merge(cfg.backbone, tmp_path / "adapter", tmp_path / "merged")
    whole = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert whole.dtype == torch.bfloat16
    learnt = torch.cat([m.get_delta_weight("default").flatten() for m in layers.values()])
    given = torch.cat([m.get_base_layer().weight.flatten() for m in layers.values()]).float()
    names = [name.removeprefix("base_model.model.") for name in layers]
    found = torch.cat([whole.get_submodule(n).weight.flatten() for n in names]).float() - given
    nearest = (given + learnt).bfloat16().float() - given
    arrived, rounded = ((one @ learnt / (learnt @ learnt)).item() for one in (found, nearest))
    assert arrived == pytest.approx(1, abs=0.05)
    assert rounded < 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_dithering_is_right_on_average_and_to_the_last_bit(dtype: torch.dtype) -> None:
    exact = torch.tensor([0.0, 1.0, -1.5, 1 + torch.finfo(dtype).eps / 4, -0.3]).repeat(20_000, 1)
    rounded = round_at_random(exact, dtype)
    assert (rounded[:, :3] == exact[:, :3]).all()
    last_bit = torch.finfo(dtype).eps * torch.tensor([1, 1, 1, 1, 0.25])
    assert ((rounded - exact).abs() < last_bit).all()
    assert ((rounded.float() - exact).mean(dim=0).abs() < 0.01 * last_bit).all()
    assert (rounded[:, 3] != rounded[0, 3]).any()
    assert torch.equal(rounded, round_at_random(exact, dtype))


def test_every_matrix_is_rounded_by_noise_of_its_own() -> None:
    one, other = (torch.randn(256, 256).abs() for _ in range(2))
    errors = torch.stack([(round_at_random(x, torch.bfloat16) - x).flatten() for x in (one, other)])
    assert abs(torch.corrcoef(errors)[0, 1]) < 0.02


@pytest.mark.parametrize("method", ["lora", "dora"])
def test_a_model_merged_in_float32_is_what_peft_merges(
    method: str, cfg: Config, encoder: Encoder, tmp_path: Path
) -> None:
    cfg = changed(cfg, adapter={"method": method}, backbone={"quantization": "none"})
    model = tuned(cfg)
    save_adapter(model, adapter_weights(model), encoder, recipe(cfg), tmp_path / "adapter")
    merge(cfg.backbone, tmp_path / "adapter", tmp_path / "merged")
    found = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").state_dict()
    for name, expected in model.merge_and_unload().state_dict().items():
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_folded_layers_answer_alike_in_16_bits(
    batch_size: int, dtype: str, cfg: Config, encoder: Encoder, rows: Dataset
) -> None:
    cfg = changed(cfg, backbone={"dtype": dtype})
    plain, folded = tuned(cfg), tuned(cfg)
    merge_and_compile(folded, backend="aot_eager")
    images, question = list(rows["image"])[:3], question_text(rows[0]["messages"])
    one, other, without = (
        CountPredictor(model, encoder, question, 60).predict(images, batch_size).probabilities
        for model in (plain, folded, load_backbone(cfg.backbone))
    )
    assert abs(one - other).max() < 0.1 * abs(one - without).max()


def test_counting_leaves_the_compiler_as_it_was(
    cfg: Config, encoder: Encoder, rows: Dataset
) -> None:
    """Else whatever is compiled next in this process would not be."""
    model = tuned(cfg)
    CountPredictor(model, encoder, question_text(rows[0]["messages"]), 60).predict(
        list(rows["image"])[:3], 2
    )
    compiled: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    torch.compile(torch.nn.Linear(2, 2), backend=backend)(torch.zeros(1, 2))
    assert compiled


def test_an_adapter_that_is_in_the_weights_is_not_added_again(
    cfg: Config, encoder: Encoder, rows: Dataset, tmp_path: Path
) -> None:
    """Loading adds it into float32 layers already."""
    cfg = changed(cfg, backbone={"quantization": "none"})
    model = tuned(cfg)
    save_adapter(model, adapter_weights(model), encoder, recipe(cfg), tmp_path)
    (plain, reader, _), (folded, _, _) = load_adapter(tmp_path), load_adapter(tmp_path)
    merge_and_compile(folded, backend="aot_eager")
    images, question = list(rows["image"])[:3], question_text(rows[0]["messages"])
    one, other = (
        CountPredictor(m, reader, question, 60).predict(images, 4) for m in (plain, folded)
    )
    assert abs(one.probabilities - other.probabilities).max() < 1e-5
