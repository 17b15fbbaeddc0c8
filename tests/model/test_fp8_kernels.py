"""The Triton kernels compile for a Hopper card. No card is needed for that; what they compute is
checked on one by `python -m benchmarks.fp8_products`.
"""

from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="Triton is not installed: no kernel can be compiled")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from llava_dvc.model.fp8 import kernels  # noqa: E402

HOPPER = GPUTarget("cuda", 90, 32)
NUMBERS = ["total", "low", "up", "gate_up", "of_hidden", "query", "key", "value", "cos", "sin"]
TYPES = {
    **dict.fromkeys([*NUMBERS, "gradient"], "*bf16"),
    **dict.fromkeys(("weight_scale", "scale"), "*fp32"),
    "rounded": "*fp8e4nv",
    "floor": "fp32",
}


@pytest.mark.parametrize(
    ("name", "constants", "warps"),
    [
        ("_add_low_rank", {"TILE": 128, "RANKS": 64}, 4),
        ("_add_low_rank", {"TILE": 128, "RANKS": 16}, 4),
        ("_gated_gradient", {"CHUNK": 4096}, 16),
        ("_rotated_gradient", {"HALF": 64, "HEADS": 16, "CHUNK": 4096}, 8),
    ],
)
def test_a_kernel_compiles(name: str, constants: dict[str, int], warps: int) -> None:
    kernel: Any = getattr(kernels, name)
    arguments = kernel.arg_names
    signature = {n: "constexpr" if n in constants else TYPES.get(n, "i32") for n in arguments}
    values = {(arguments.index(n),): value for n, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=values)
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps})
    assert compiled.asm["cubin"]
    assert ("wgmma" in compiled.asm["ptx"]) == ("RANKS" in constants)
