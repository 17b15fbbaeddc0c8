"""Adapters folded into their layers' weights, on a GPU; layers that read the same input are one
product.

To count, W + s B A is one matrix. Rounded to the nearest, it would be W again wherever an adapter
has learnt less than half of W's last bit, as an adapter of a small learning rate has almost
everywhere, although all of it together changes the answer. So it is rounded up or down at random,
in proportion to what is nearer: then the sum over many weights is right.

To train, W x + s B A x is [W, s B] times [x; A x], and so are the gradients: of x and A x in one
product. Nothing is rounded that was not before.
"""

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn.functional import linear, silu
from transformers import Cache
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.llava.modeling_llava import LlavaModel

from llava_dvc.attention import attend
from llava_dvc.backbone import spread_by_fsdp
from llava_dvc.speed import Unpacked, blocks_read, trust_image_tokens, unpacked_weight


class Merged(nn.Module):
    """Linear layers without bias that read the same input, with their adapters in their weights."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.weight = torch.cat(list(map(merged_weight, layers)))

    def forward(self, x: Tensor) -> Tensor:
        """`(tokens, width)` to the layers' outputs, one behind the other."""
        return linear(x, self.weight)

    def onto(self, total: Tensor, x: Tensor) -> Tensor:
        """`total` itself, the product added to it in place."""
        add_product(total, x, self.weight)
        return total


@torch.library.custom_op("llava_dvc::add_product", mutates_args=("total",))
def add_product(total: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add x W^T to `total`, in place: a compiler would copy `total` first."""
    total.addmm_(x, weight.T)


@add_product.register_fake
def _(total: Tensor, x: Tensor, weight: Tensor) -> None:
    pass


@torch.no_grad()
def merged_weight(layer: Any) -> Tensor:
    """The layer's weight `(out, in)`, its adapter added, in the number format it computes in."""
    base = layer.get_base_layer() if isinstance(layer, LoraLayer) else layer
    weight = unpacked_weight(base)
    if not isinstance(layer, LoraLayer) or layer.merged:
        return weight
    [name] = layer.active_adapters
    up, down = layer.lora_B[name].weight, layer.lora_A[name].weight
    whole = weight.float() + layer.scaling[name] * (up.float() @ down.float())
    if name in layer.lora_magnitude_vector:  # DoRA: every output has a length of its own
        magnitude = layer.lora_magnitude_vector[name].weight
        whole *= (magnitude / whole.norm(dim=1))[:, None]
    return dithered(whole, weight.dtype)


def dithered(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 in `dtype`, every normal number rounded up or down at random, on average to itself;
    always alike on one kind of device.

    Stochastic rounding, as in Gupta et al., arXiv 1502.02551: random bits are added to those that
    `dtype` has no room for, and carried.
    """
    bits = exact.view(torch.int32)
    seed = int(bits.sum())  # every matrix has noise of its own
    dropped = int(torch.finfo(dtype).eps / torch.finfo(exact.dtype).eps)
    source = torch.Generator(exact.device).manual_seed(seed)
    noise = torch.randint(
        dropped, exact.shape, generator=source, device=exact.device, dtype=torch.int32
    )
    return ((bits + noise) & -dropped).view(exact.dtype).to(dtype)


class Learning(nn.Module):
    """Unpacked layers that read the same input, with adapters that learn; `refresh` before every
    pass. The layers keep no weights of their own beside these.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        super().__init__()
        [name] = layers[0].active_adapters
        self.downs = [layer.lora_A[name].weight for layer in layers]
        self.ups = [layer.lora_B[name].weight for layer in layers]
        self.scalings = [layer.scaling[name] for layer in layers]
        bases = [layer.get_base_layer() for layer in layers]
        weight = torch.cat([base.unpacked for base in bases])
        rows, width = weight.shape
        self.down = weight.new_zeros(sum(map(len, self.downs)), width)
        self.weight = torch.cat([weight, weight.new_zeros(rows, len(self.down))], dim=1)
        for base, own in zip(bases, _pieces(self.weight[:, :width], self.ups), strict=True):
            base.unpacked = own
        self.own_downs = _pieces(self.down, self.downs)
        self.own_ups = _blocks(self.weight[:, width:], self.ups)

    def forward(self, x: Tensor) -> Tensor:
        """`(tokens, width)` to the layers' outputs, one behind the other."""
        return Product.apply(  # type: ignore[no-any-return]
            x, self.down, self.weight, self.scalings, len(self.downs), *self.downs, *self.ups
        )

    def onto(self, total: Tensor, x: Tensor) -> Tensor:
        """The sum of both."""
        return total.add(self(x))


def _blocks(whole: Tensor, ups: Sequence[Tensor]) -> list[Tensor]:
    """Of a matrix as high and wide as all of `ups`, the blocks on the diagonal that are theirs."""
    blocks, row, column = [], 0, 0
    for up in ups:
        height, rank = up.shape
        blocks.append(whole[row : row + height, column : column + rank])
        row, column = row + height, column + rank
    return blocks


def _pieces(whole: Tensor, parts: Sequence[Tensor]) -> list[Tensor]:
    """Of a matrix as high as all of `parts`, the rows that are theirs."""
    return list(torch.split(whole, [len(part) for part in parts]))


class Product(torch.autograd.Function):
    """[W, s B] times [x; A x]. The adapters' own tensors are given for their gradients alone."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        down: Tensor,
        weight: Tensor,
        scalings: Sequence[float],
        layers: int,
        *adapters: Tensor,
    ) -> Tensor:
        # Of two dimensions, which lets a compiler write A x into its place.
        both = torch.cat([x, linear(x, down)], dim=1)
        ctx.save_for_backward(both, down, weight, *adapters)
        ctx.scalings, ctx.layers = scalings, layers
        return linear(both, weight)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> Any:
        [gradient] = given
        both, down, weight, *adapters = ctx.saved_tensors
        downs, ups = adapters[: ctx.layers], adapters[ctx.layers :]
        width = down.shape[1]
        back = gradient @ weight
        x, low, of_x, of_low = both[:, :width], both[:, width:], back[:, :width], back[:, width:]
        of_downs = _pieces(of_low.T @ x, downs)
        of_ups = _blocks(gradient.T @ low, ups)
        return (
            of_x + of_low @ down,
            *[None] * 4,
            *[one.to(p.dtype) for one, p in zip(of_downs, downs, strict=True)],
            *[s * one.to(p.dtype) for one, p, s in zip(of_ups, ups, ctx.scalings, strict=True)],
        )


@torch.no_grad()
def refresh(products: Sequence[Learning]) -> None:
    """Bring the weights up to what the adapters have learnt."""
    downs = [down for product in products for down in product.downs]
    ups = [up for product in products for up in product.ups]
    scalings = [scaling for product in products for scaling in product.scalings]
    own_downs = [own for product in products for own in product.own_downs]
    own_ups = [own for product in products for own in product.own_ups]
    torch._foreach_copy_(own_downs, downs)
    torch._foreach_copy_(own_ups, torch._foreach_mul(ups, scalings))


class BeforeAttention(nn.Module):
    """Norm and the three projections of a decoder layer, turned by place."""

    def __init__(self, layer: Any, product: type[Merged | Learning]) -> None:
        super().__init__()
        attention = layer.self_attn
        self.norm, self.width = layer.input_layernorm, attention.head_dim
        self.project = product([attention.q_proj, attention.k_proj, attention.v_proj])
        config = attention.config
        self.heads = config.num_attention_heads, *[config.num_key_value_heads] * 2

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value, `(rows, heads, tokens, width)` each."""
        projected = self.project(self.norm(hidden).flatten(0, 1))
        heads = projected.view(*hidden.shape[:2], -1, self.width).transpose(1, 2)
        query, key, value = heads.split(self.heads, dim=1)
        query, key = apply_rotary_pos_emb(query, key, cos, sin)
        return query, key, value


class FromAttention(nn.Module):
    """The rest of the layer."""

    def __init__(self, layer: Any, product: type[Merged | Learning]) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.scaling, self.norm = attention.scaling, layer.post_attention_layernorm
        self.out = product([attention.o_proj])
        self.gate_up, self.down = product([mlp.gate_proj, mlp.up_proj]), product([mlp.down_proj])

    def forward(
        self, hidden: Tensor, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`hidden` is what the layer was given, `(rows, tokens, width)`; Merged writes over it."""
        mixed = attend(query, key, value, mask, self.scaling).transpose(1, 2)
        flat = self.out.onto(hidden.flatten(0, 1), mixed.flatten(2).flatten(0, 1))
        gate, up = self.gate_up(self.norm(flat)).chunk(2, dim=-1)
        output: Tensor = self.down.onto(flat, silu(gate) * up)
        return output.view_as(hidden)


class FoldedLayer(nn.Module):
    """What a LlamaDecoderLayer computes, of two parts that know no cache."""

    kept = slice(None)
    """Positions whose output is asked for; `speed.shorten_last_layer` sets the last layer's."""

    def __init__(self, layer: Any, product: type[Merged | Learning]) -> None:
        super().__init__()
        self.index = layer.self_attn.layer_idx
        self.before, self.after = BeforeAttention(layer, product), FromAttention(layer, product)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        *,
        position_embeddings: tuple[Tensor, Tensor],
        **_: Any,
    ) -> Tensor:
        query, key, value = self.before(hidden_states, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.index)
        query = query[:, :, self.kept]
        if attention_mask is not None:
            attention_mask = attention_mask[..., -query.shape[2] :, :]
        hidden = hidden_states[:, self.kept]
        output: Tensor = self.after(hidden, query, key, value, attention_mask)
        return output


def fold_and_compile(model: Any, backend: str = "inductor") -> None:
    """Merge the language model's adapters, unpack it, and compile its layers and the tower's
    blocks, for counting alone: the layers keep nothing to train or save, and write over what they
    are given. The parts of all layers share one compiled graph for every shape.
    """
    llava = next(module for module in model.modules() if isinstance(module, LlavaModel))
    trust_image_tokens(llava)
    parts: list[nn.Module] = list(llava.vision_tower.encoder.layers[: blocks_read(llava.config)])
    layers = llava.language_model.layers
    for index, layer in enumerate(layers):
        layers[index] = folded = FoldedLayer(layer, Merged)
        parts += [folded.before, folded.after]
    for part in parts:
        part.compile(dynamic=False, backend=backend)


def fold_to_train(llava: LlavaModel) -> list[FoldedLayer]:
    """Have the language model's layers, all but the last, computed by folded ones, which are
    returned; none when some layer is not unpacked, or is adapted otherwise than by plain LoRA, or
    when FSDP will spread the adapters.
    """
    language = llava.language_model
    layers = language.layers[:-1]
    inside = [one for layer in layers for one in layer.modules() if hasattr(one, "base_layer")]
    if spread_by_fsdp() or not inside or not all(map(_is_plain, inside)):
        return []
    folded = [FoldedLayer(layer, Learning) for layer in layers]
    for layer, other in zip(layers, folded, strict=True):
        layer.forward = other.__call__
    products = [one for layer in folded for one in layer.modules() if isinstance(one, Learning)]
    language.register_forward_pre_hook(lambda *_: refresh(products))
    return folded


def _is_plain(layer: Any) -> bool:
    return (
        isinstance(layer.base_layer, Unpacked)
        and not layer.lora_magnitude_vector
        and all(isinstance(dropout, nn.Identity) for dropout in layer.lora_dropout.values())
    )
