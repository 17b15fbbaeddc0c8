"""What vLLM asks of a LoRA adapter, and the command that serves one with it. Light: no torch.

Facts from vLLM's documentation and source, releases 0.14 to 0.29: `vllm/config/lora.py`,
`vllm/lora/peft_helper.py`, `vllm/model_executor/models/llava.py` and `clip.py`.
"""

import json
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

from llava_dvc.errors import UserError
from llava_dvc.files import read_json
from llava_dvc.recipe import WEIGHTS, Recipe

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that --max-lora-rank can be

# vLLM looks a weight up by its name and leaves out, without a word, what it has no layer for. Its
# vision tower keeps the `vision_model` that transformers 5 has taken out of the name.
LANGUAGE = r"model\.language_model\.layers\.\d+\.(self_attn\.[qkvo]|mlp\.(gate|up|down))_proj"
PROJECTOR = r"model\.multi_modal_projector\.linear_[12]"
TOWER = r"model\.vision_tower\.vision_model\.encoder\.layers\.\d+\.\w+\.\w+"
KNOWN = re.compile(rf"base_model\.model\.({LANGUAGE}|{PROJECTOR}|{TOWER})\.lora_[AB]\.weight")


def objections(config: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Why vLLM would refuse, or half ignore, an adapter with this adapter_config.json and weights
    of these names; empty if it would not.
    """
    found = []
    if config["peft_type"] != "LORA":
        found.append(f"it is {config['peft_type']}, not LoRA")
    if config["r"] > RANKS[-1]:
        found.append(f"its rank is {config['r']}, over {RANKS[-1]}; train with a smaller adapter.r")
    if config.get("use_dora"):
        found.append("it is DoRA; train with adapter.method: lora or rslora")
    if config.get("bias", "none") != "none":
        found.append("it has biases")
    for key in ("modules_to_save", "rank_pattern", "alpha_pattern"):
        if config.get(key):
            found.append(f"its {key} is not empty")
    unknown = sorted(name for name in names if not KNOWN.fullmatch(name))
    if any(".vision_tower." in name for name in unknown):
        found.append(
            "it adapts the vision tower under names that vLLM has no layer for, and would leave "
            "out; train with adapter.vision: false"
        )
        unknown = [name for name in unknown if ".vision_tower." not in name]
    if unknown:
        found.append(f"{len(unknown)} of its weights have no place in vLLM, {unknown[0]} for one")
    return found


def command(adapter: Path) -> str:
    """The `vllm serve` command for an adapter's folder. Raises UserError when vLLM would not give
    the adapter's answers.
    """
    recipe = Recipe.read(adapter)
    config = read_json(adapter / "adapter_config.json")
    with safe_open(adapter / WEIGHTS, "np") as weights:
        names = list(weights.keys())
    against = objections(config, names)
    if recipe.image.drop_border:
        against.append("it was trained without its border's tokens; set image.drop_border: false")
    if against:
        raise UserError(
            f"{adapter}: not for vLLM: {'; '.join(against)}. `llava-dvc serve` takes it as it is"
        )
    options = {
        "--revision": recipe.backbone.revision,
        "--dtype": "bfloat16",
        "--max-model-len": "1024",
        "--limit-mm-per-prompt": json.dumps({"image": 1}),
        "--chat-template": str(adapter / "chat_template.jinja"),
        "--lora-modules": f"counter={adapter}",
        "--max-lora-rank": str(min(rank for rank in RANKS if rank >= config["r"])),
    }
    parts = ["vllm", "serve", recipe.backbone.name, "--enable-lora"]
    if any("language_model" not in name for name in names):
        parts.append("--enable-tower-connector-lora")
    for option, value in options.items():
        parts += [option, value] if value is not None else []
    return shlex.join(parts)
