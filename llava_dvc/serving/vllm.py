"""Which adapters vLLM can serve, and the command that serves one. Imports no torch.

The rules are from vLLM's documentation and source code, releases 0.14 to 0.29:
`vllm/config/lora.py`, `vllm/lora/peft_helper.py`, `vllm/model_executor/models/llava.py` and
`clip.py`.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llava_dvc.errors import UserError
from llava_dvc.recipe import ADAPTER_CONFIG, Recipe, read_object, require_unchanged, weight_shapes

MAX_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""The values that vLLM's option --max-lora-rank takes."""

# vLLM finds a weight by its name. It ignores a weight of unknown name without a warning. In its
# vision tower the names contain `vision_model`; transformers 5 has removed that part.
LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj"
PROJECTOR = r"model\.multi_modal_projector\.linear_[12]"
TOWER = r"model\.vision_tower\.vision_model\.encoder\.layers\.\d+\.\w+\.\w+"
KNOWN = re.compile(rf"base_model\.model\.({LANGUAGE}|{PROJECTOR}|{TOWER})\.lora_[AB]\.weight")


def vllm_serve_command(adapter: Path) -> str:
    """Returns the `vllm serve` command for the folder of an adapter.

    Raises UserError when vLLM would refuse the adapter or ignore a part of it.
    """
    recipe = Recipe.read(adapter)
    config, names = read_object(adapter / ADAPTER_CONFIG), list(weight_shapes(adapter))
    require_unchanged(adapter)
    reasons = unsupported_features(config, names)
    if recipe.image.drop_border:
        reasons.append(
            "it is trained without the tokens of the border; set image.drop_border: false"
        )
    if recipe.zones:
        reasons.append("it counts in a zone, and vLLM shows it whole frames; set data.zone: null")
    if recipe.image.tiles != (1, 1):
        reasons.append("it counts the tiles of a frame and adds them up; set image.tiles: [1, 1]")
    if reasons:
        raise UserError(
            f"{adapter}: vLLM cannot serve it: {'; '.join(reasons)}. Or use `llava-dvc serve`."
        )
    return _command_line(adapter, recipe, config["r"], names)


def unsupported_features(config: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Returns why vLLM would refuse an adapter, or ignore a part of it; empty if it would not.

    `config` is its adapter_config.json, and `names` are those of its weights.
    """
    reasons = []
    if config["peft_type"] != "LORA":
        reasons.append(f"it is {config['peft_type']}, not LoRA")
    if config["r"] > MAX_LORA_RANKS[-1]:
        reasons.append(
            f"its rank is {config['r']}, over {MAX_LORA_RANKS[-1]}; train with a smaller adapter.r"
        )
    if config.get("use_dora"):
        reasons.append("it is DoRA; train with adapter.method: lora or rslora")
    if config.get("bias", "none") != "none":
        reasons.append("it has biases")
    for key in ("modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            reasons.append(f"its {key} is not empty")
    return reasons + _ignored_weights(names)


def _ignored_weights(names: Iterable[str]) -> list[str]:
    unknown = sorted(name for name in names if not KNOWN.fullmatch(name))
    tower = [name for name in unknown if ".vision_tower." in name]
    others = [name for name in unknown if ".vision_tower." not in name]
    reasons = []
    if tower:
        reasons.append(
            "it adapts the vision tower under names that vLLM has no layer for, and vLLM would "
            "ignore these weights; train with adapter.vision: false"
        )
    if others:
        reasons.append(f"vLLM has no layer for {len(others)} of its weights, such as {others[0]}")
    return reasons


def _command_line(adapter: Path, recipe: Recipe, rank: int, names: Sequence[str]) -> str:
    options = {
        "--revision": recipe.backbone.revision,
        "--dtype": "bfloat16",
        "--quantization": "fp8" if recipe.backbone.quantization == "fp8" else None,
        "--max-model-len": "1024",
        "--limit-mm-per-prompt": json.dumps({"image": 1}),
        "--chat-template": str(adapter / "chat_template.jinja"),
        "--lora-modules": f"counter={adapter}",
        "--max-lora-rank": str(min(most for most in MAX_LORA_RANKS if most >= rank)),
    }
    parts = ["vllm", "serve", recipe.backbone.name, "--enable-lora"]
    if any("language_model" not in name for name in names):
        parts.append("--enable-tower-connector-lora")
    for option, value in options.items():
        parts += [option, value] if value is not None else []
    return shlex.join(parts)
