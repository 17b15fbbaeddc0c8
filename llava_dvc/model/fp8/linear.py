"""Linear layers whose weights are in FP8."""

import torch
from torch import Tensor, nn

from llava_dvc.model.fp8.products import E4M3, Fp8Product, quantize_rows, transposed_copy


class Fp8Linear(nn.Linear):
    """A frozen linear layer with weights in e4m3, and a scale for each of its outputs.

    `weight` holds the bytes of the e4m3 numbers as uint8. PEFT, the Trainer and DDP then take it
    for a packed weight, like those in 4 bits.
    """

    compute_dtype: torch.dtype
    scale: Tensor
    """`(outputs, 1)`. An attribute, not a buffer: DDP does not broadcast it in every step."""
    transposed: Tensor | None
    """The weights in the layout of the backward pass. None before `keep_transposed`."""

    @classmethod
    def of(cls, layer: nn.Linear, device: torch.device) -> "Fp8Linear":
        """Quantizes `layer` on `device`."""
        with torch.device("meta"):
            new = cls(layer.in_features, layer.out_features, bias=False)
        rounded, new.scale = quantize_rows(layer.weight.data.to(device))
        new.weight = nn.Parameter(rounded.view(torch.uint8), requires_grad=False)
        new.bias = layer.bias
        new.compute_dtype, new.transposed = layer.weight.dtype, None
        return new

    def e4m3(self) -> Tensor:
        """The weights as e4m3 numbers, `(outputs, inputs)`."""
        return self.weight.data.view(E4M3)

    def keep_transposed(self) -> None:
        """Keeps a transposed copy of the weights. Else each backward pass makes one."""
        self.transposed = transposed_copy(self.e4m3())

    def forward(self, x: Tensor) -> Tensor:
        flat = Fp8Product.apply(x.flatten(0, -2), self.e4m3(), self.scale, self.transposed)
        output: Tensor = flat.view(*x.shape[:-1], self.out_features)
        return output if self.bias is None else output + self.bias


def quantize_layers(layers: nn.Module, device: torch.device) -> None:
    """Swaps the linear layers in `layers` for FP8 ones on `device`, one after the other.

    Only one layer at a time is on `device` in 16 bits.
    """
    plain = [(name, m) for name, m in layers.named_modules() if isinstance(m, nn.Linear)]
    for name, layer in plain:
        layers.set_submodule(name, Fp8Linear.of(layer, device))
