"""Compares an adapter's files with what the backbone and our settings need.

PEFT only warns about tensors that it does not find. The counts would then be those of another
adapter.
"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from peft import LoraConfig
from pydantic import ValidationError
from torch import nn
from transformers import LlavaForConditionalGeneration

from llava_dvc import config, errors
from llava_dvc.model.encoder import Encoder
from llava_dvc.recipe import ADAPTER_CONFIG, WEIGHTS, Recipe, Shapes, read_object

PREFIX = "base_model.model."
CURRENT_NAMES = {
    r"^language_model\.model\.": "model.language_model.",
    r"^multi_modal_projector\.": "model.multi_modal_projector.",
    r"^(model\.)?vision_tower\.vision_model\.": "model.vision_tower.",
}
"""Beginnings of names as transformers before 4.52, or before 5, had them. PEFT's `key_mapping`."""
FREE_SETTINGS = {"base_model_name_or_path", "inference_mode", "peft_version", "revision"}
"""Settings of PEFT that change no answer. The backbone is compared with the recipe."""
OUR_NAMES = {"alpha": "lora_alpha", "dropout": "lora_dropout"}


def read_settings(folder: Path, recipe: Recipe) -> dict[str, Any]:
    """The content of adapter_config.json. Raises UserError when it names another backbone,
    or is DoRA for FP8 weights.
    """
    path = folder / ADAPTER_CONFIG
    stored = read_object(path)
    backbone = recipe.backbone
    allowed: dict[str, list[str | None]] = {
        "base_model_name_or_path": [backbone.name],
        "revision": [None, backbone.revision],
    }
    for key, values in allowed.items():
        if stored.get(key) not in values:
            wanted = f"recipe.json has {values[-1]!r}"
            raise errors.wrong_adapter_setting(path, key, stored.get(key), wanted)
    if stored.get("use_dora") and backbone.quantization == "fp8":
        wanted = "recipe.json has an FP8 backbone, and DoRA needs 16-bit weights"
        raise errors.wrong_adapter_setting(path, "use_dora", True, wanted)
    return stored


def adapter_section(path: Path, stored: dict[str, Any]) -> config.Adapter:
    """The `adapter` section that gives these settings of PEFT. Its bounds hold for them too.

    Where the layers are only the settings' text says: `projector` and `vision` are true.
    """
    method = "dora" if stored.get("use_dora") else "rslora" if stored.get("use_rslora") else "lora"
    values = {key: stored.get(OUR_NAMES.get(key, key)) for key in ("r", "alpha", "dropout")}
    values |= {"method": method, "projector": True, "vision": True}
    try:
        return config.Adapter.model_validate(values, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        key = OUR_NAMES.get(key, key)
        raise errors.wrong_adapter_setting(path, key, first["input"], first["msg"]) from None


def require_settings(path: Path, stored: dict[str, Any], built: LoraConfig) -> None:
    """Raises UserError when a setting is not the one that we build with the same method.

    PEFT reads more than we write: other layers, ranks and modules, other starts of the weights.
    """
    ours = json.loads(json.dumps(built.to_dict()))
    for key in ("peft_type", "target_modules", *sorted(stored)):
        found, wanted = stored.get(key), ours.get(key)
        if key in FREE_SETTINGS or found == wanted or (key not in ours and not found):
            continue
        text = "expected the layers that llava-dvc adapts"
        if key != "target_modules":
            text = f"expected {json.dumps(wanted)}, as llava-dvc writes it"
        raise errors.wrong_adapter_setting(path, key, found, text)


def current_name(name: str) -> str:
    """A tensor's name as the present transformers has it. PEFT renames by the same table."""
    bare = name.removeprefix(PREFIX)
    for pattern, beginning in CURRENT_NAMES.items():
        bare, replaced = re.subn(pattern, beginning, bare)
        if replaced:
            break
    return f"{PREFIX}{bare}" if name.startswith(PREFIX) else name


def expected_shapes(model: LlavaForConditionalGeneration, built: LoraConfig) -> Shapes:
    """The tensors that PEFT makes for `built`, as it writes them to a file."""
    layers = re.compile(str(built.target_modules))
    shapes: Shapes = {}
    for name, layer in model.named_modules():
        if layers.fullmatch(name):
            rows, columns = layer.out_features, layer.in_features
            shapes[f"{PREFIX}{name}.lora_A.weight"] = (built.r, columns)
            shapes[f"{PREFIX}{name}.lora_B.weight"] = (rows, built.r)
            if built.use_dora:
                shapes[f"{PREFIX}{name}.lora_magnitude_vector"] = (rows,)
    return shapes


def require_tensors(path: Path, found: Shapes, expected: Shapes) -> None:
    """Raises UserError when a tensor is missing, unexpected or of another shape."""
    names = Counter(map(current_name, found))
    if twice := [name for name, times in names.items() if times > 1]:
        raise errors.wrong_tensor(path, twice[0], "is there under an old name too", len(twice))
    if missing := sorted(expected.keys() - names.keys()):
        raise errors.wrong_tensor(path, missing[0], "is missing", len(missing))
    if extra := [name for name in found if current_name(name) not in expected]:
        raise errors.wrong_tensor(path, extra[0], "is in no layer to adapt", len(extra))
    wanted = {name: expected[current_name(name)] for name in found}
    if wrong := [name for name in found if found[name] != wanted[name]]:
        first = wrong[0]
        problem = f"has the shape {list(found[first])}, expected {list(wanted[first])}"
        raise errors.wrong_tensor(path, first, problem, len(wrong))


def require_finite(folder: Path, model: nn.Module) -> None:
    """Raises UserError when a weight of the loaded adapter is infinite or NaN."""
    tensors = [(name, p) for name, p in model.named_parameters() if ".lora_" in name]
    wrong = [name for name, tensor in tensors if not tensor.isfinite().all()]
    if wrong:
        name = wrong[0].replace(".default", "")
        raise errors.wrong_tensor(folder / WEIGHTS, name, "is not finite", len(wrong))


def require_processor(folder: Path, encoder: Encoder, model: LlavaForConditionalGeneration) -> None:
    """Raises UserError when tokens or image patches are not those of the backbone."""
    processor, llava = encoder.processor, model.config
    pad_token = processor.tokenizer.pad_token
    tokens, rows = len(processor.tokenizer), model.get_input_embeddings().num_embeddings
    size = processor.image_processor.size
    side, image_token = size["shortest_edge"] or size["height"], processor.image_token_id
    vision = llava.vision_config
    # CLIP puts one token before those of the patches. "default" drops it.
    extra, select = processor.num_additional_image_tokens, processor.vision_feature_select_strategy
    for file, key, found, wanted in (
        ("tokenizer.json", "number of tokens", tokens, min(tokens, rows)),
        ("tokenizer_config.json", "pad_token", pad_token, pad_token or "one"),
        ("tokenizer.json", "id of the image token", image_token, llava.image_token_id),
        ("processor_config.json", "patch_size", processor.patch_size, vision.patch_size),
        ("processor_config.json", "image_processor.size", side, vision.image_size),
        ("processor_config.json", "num_additional_image_tokens", extra, 1),
        (
            "processor_config.json",
            "vision_feature_select_strategy",
            select,
            llava.vision_feature_select_strategy,
        ),
    ):
        if found != wanted:
            text = f"the backbone has {wanted}"
            raise errors.wrong_adapter_setting(folder / file, key, found, text)
