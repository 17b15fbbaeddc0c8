"""The model card: what the Hub reads of it, and what a person does. The same bytes for the same
facts.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from llava_dvc import config
from llava_dvc.recipe import Recipe

RIVALS = ("train_mean", "zero_shot", "ridge_features")
"""Baselines that an adapter has to beat. Blind interpolation is not among them: it knows labels
between which a frame lies in time, so it measures the split and not a way of counting.
"""
TAGS = ["llava", "trl", "sft", "crowd-counting", "people-counting", "cctv", "llava-dvc"]
LLAMA = "llava-hf/llava-1.5-"  # of Llama 2's weights, under Llama 2's licence
UNSEEN = {
    "temporal": "frames, taken after all that it was trained on",
    "blocked": "frames of blocks of time that it was not trained on",
    "random": "frames drawn at random, so that their neighbours in time were trained on and the "
    "figures flatter",
    "camera": "frames of cameras that it was not trained on",
}
READ = {
    "median": "the median of the distribution over all counts",
    "mean": "the mean of the distribution over all counts, rounded",
    "mode": "the most likely count",
    "greedy": "the number in the greedy reply",
}
METHODS = {"lora": "LoRA", "rslora": "rsLoRA", "dora": "DoRA", "lora_plus": "LoRA+"}
LOSS = {
    "ce": "cross-entropy",
    "soft": "cross-entropy, and cross-entropy against a Gaussian around the label",
    "expected": "cross-entropy, and the squared error of the expected count",
}


@dataclass(frozen=True)
class Facts:
    """What a card is written from."""

    repo: str
    recipe: Recipe
    report: dict[str, Any]
    """prepared/report.json"""
    baseline: dict[str, dict[str, float]]
    metrics: dict[str, Any]
    split: config.Split
    adapter: config.Adapter
    train: config.Train
    sha256: str
    """Of the adapter's weights."""
    merged: bool = False
    """Of the model that backbone and adapter make in one, instead of the adapter."""

    @property
    def name(self) -> str:
        return self.repo.split("/")[1]

    @property
    def base(self) -> str:
        """The backbone's Hub id; a folder's name, as its path means nothing elsewhere."""
        backbone = self.recipe.backbone
        return backbone.name if backbone.revision else Path(backbone.name).name


def write(facts: Facts, folder: Path) -> None:
    """README.md of `folder`."""
    card = ModelCard(f"---\n{metadata(facts).to_yaml()}\n---\n\n{text(facts)}")
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def worse_than(metrics: dict[str, Any], baseline: dict[str, dict[str, float]]) -> list[str]:
    """Which RIVALS count better, best first."""
    better = [name for name in RIVALS if baseline[name]["mae"] < metrics["mae"]]
    return sorted(better, key=lambda name: baseline[name]["mae"])


def metadata(facts: Facts) -> ModelCardData:
    """What the Hub reads: every figure of metrics/evaluate.json, with the data's version."""
    method = [] if facts.merged else ["peft", facts.adapter.method]
    four_bit = facts.recipe.backbone.quantization == "nf4" and not facts.merged
    return ModelCardData(
        base_model=facts.base,
        base_model_relation="finetune" if facts.merged else "adapter",
        library_name="transformers" if facts.merged else "peft",
        pipeline_tag="image-text-to-text",
        license=licence(facts.recipe.backbone),
        metrics=["mae", "rmse", "accuracy"],
        tags=[*TAGS, *method, *(["qlora", "4-bit"] if four_bit else [])],
        model_name=facts.name,
        eval_results=[
            EvalResult(
                task_type="image-text-to-text",
                task_name="Counting people",
                dataset_type="private",
                dataset_name="Held-out CCTV frames",
                dataset_split="eval",
                dataset_revision=facts.report["data_md5"],
                metric_type=name,
                metric_name=name.replace("_", " "),
                metric_value=value,
            )
            for name, value in facts.metrics.items()
            if isinstance(value, int | float)
        ],
    )


def licence(backbone: config.Backbone) -> str:
    """The backbone's: what is tuned from it comes under its terms."""
    if backbone.name.startswith(LLAMA):
        return "llama2"
    own = Path(backbone.name) / "README.md"
    found = ModelCard.load(own).data.license if own.is_file() else None
    return str(found or "other")


def text(facts: Facts) -> str:
    """What a person reads."""
    parts = [
        _introduction(facts),
        f"## How well it counts\n\n{_figures(facts)}",
        f"## How it was trained\n\n{_training(facts)}",
        f"## How to use it\n\n{_use(facts)}",
        f"## Limits\n\n{LIMITS.format(highest=facts.recipe.max_count)}",
        f"## Privacy\n\n{PRIVACY}",
        f"## Terms\n\n{TERMS.format(base=facts.base, data=facts.report['data_md5'])}",
    ]
    return "\n\n".join(parts) + "\n"


def _introduction(facts: Facts) -> str:
    train = facts.report["splits"]["train"]
    what = "A LoRA adapter for {}" if not facts.merged else "{} and a LoRA adapter in one model"
    revision = facts.recipe.backbone.revision
    base = f"`{facts.base}`" + (f" at revision `{revision}`" if revision else "")
    local = "" if revision else LOCAL.format(base=facts.base, path=facts.recipe.backbone.name)
    return (
        f"# {facts.name}\n\n{what.format(base)} that answers one question about a CCTV frame:\n"
        f"*{facts.recipe.question}*\n\nIt was tuned on {train['frames']} labelled frames (mean "
        f"{train['mean']:.1f} people) of the camera it is meant for, with llava-dvc.{local}"
    )


def _figures(facts: Facts) -> str:
    metrics, split = facts.metrics, facts.split.strategy
    this = "this model" if facts.merged else "this adapter"
    rows = {name.replace("_", " "): row for name, row in facts.baseline.items()} | {this: metrics}
    table = [f"| {name} | {row['mae']:.2f} | {row['rmse']:.2f} | {row['accuracy']:.1%} |"
             for name, row in rows.items()]  # fmt: skip
    ranges = [f"| {name} | {row['frames']} | {row['mae']:.2f} | {row['bias']:+.2f} |"
              for name, row in metrics["bins"].items()]  # fmt: skip
    return "\n".join(
        [
            f"On {metrics['frames']} {UNSEEN[split]} (data version `{facts.report['data_md5']}`):",
            "",
            "| | MAE | RMSE | exact |",
            "|---|---|---|---|",
            *table,
            "",
            EXPLAINED.format(**metrics),
            *([MERGED.format(dtype=facts.recipe.backbone.dtype)] if facts.merged else []),
            *_warnings(facts),
            "",
            "| people in the frame | frames | MAE | bias |",
            "|---|---|---|---|",
            *ranges,
            "",
            "![Counted against true numbers](plots/prediction_vs_truth.png)",
        ]
    )


def _warnings(facts: Facts) -> list[str]:
    lines = []
    worse = worse_than(facts.metrics, facts.baseline)
    if worse:
        names = ", ".join(name.replace("_", " ") for name in worse)
        lines += ["", f"**Do not rely on it: {names} counted better.**"]
    if facts.baseline["blind_interpolation"]["mae"] < facts.metrics["mae"]:
        lines += ["", "**Guessing from the neighbouring labels was better: the split leaks.**"]
    return lines


def _training(facts: Facts) -> str:
    recipe, adapter, train = facts.recipe, facts.adapter, facts.train
    parts = ["language model", *["projector"] * adapter.projector,
             *["vision tower"] * adapter.vision]  # fmt: skip
    seen = {"flip": " and their mirror images", "light": ", in changed light", "blur": ", blurred"}
    packages = ", ".join(f"{name} {version}" for name, version in recipe.versions.items())
    return TRAINING.format(
        four_bit="4-bit (nf4) weights" if recipe.backbone.quantization == "nf4" else "weights",
        dtype=recipe.backbone.dtype,
        method=METHODS[adapter.method],
        r=adapter.r,
        alpha=adapter.alpha,
        parts=", ".join(parts),
        passes="one pass" if train.epochs == 1 else f"{train.epochs} passes",
        augmented="".join(seen[kind] for kind in train.augment),
        batch=train.batch_size * train.accumulation,
        rate=train.learning_rate,
        scheduler=train.scheduler,
        loss=LOSS[train.loss],
        geometry=recipe.image.geometry,
        border=", the border taking no tokens" if recipe.image.drop_border else "",
        split=facts.split.strategy,
        packages=packages,
        sha256=facts.sha256,
    )


def _use(facts: Facts) -> str:
    recipe = facts.recipe
    read = READ[recipe.decode]
    ours = "" if facts.merged else OURS.format(repo=facts.repo, read=read)
    if recipe.image.drop_border:
        return ours + BORDER
    plain = PLAIN.format(peft="" if facts.merged else " and PEFT")
    return f"{ours}{plain}\n\n```python\n{script(facts)}\n```"


def script(facts: Facts) -> str:
    """Ten lines of transformers and PEFT that print the reply to one frame."""
    backbone = facts.recipe.backbone
    dtype = f"torch.{backbone.dtype}"
    four_bit = backbone.quantization == "nf4" and not facts.merged
    computes = f'with torch.autocast("{backbone.device}", {dtype}):\n    '
    return SCRIPT.format(
        peft="" if facts.merged else "from peft import PeftModel\n",
        bits="BitsAndBytesConfig, " if four_bit else "",
        repo=_quoted(facts.repo),
        config=FOUR_BIT.format(dtype=dtype) if four_bit else "",
        quantized=", quantization_config=four_bit" if four_bit else "",
        base="repo" if facts.merged else _quoted(backbone.name),
        revision=f", revision={_quoted(backbone.revision)}" if backbone.revision else "",
        dtype=dtype,
        device=backbone.device,
        tuned="" if facts.merged else "model = PeftModel.from_pretrained(model, repo)\n",
        exact=EXACT if four_bit and backbone.device == "cpu" else "",
        question=_quoted(facts.recipe.question),
        autocast="" if backbone.dtype == "float32" else computes,
    )


def _quoted(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


LOCAL = """
`{base}` is no model of the Hub but a folder, `{path}` beside llava-dvc."""

EXPLAINED = """MAE and RMSE are in people. *Train mean* always answers the mean training label,
*blind interpolation* guesses from the neighbouring labels without a look at the picture, *zero
shot* is the backbone before tuning, *ridge features* is ridge regression on what its frozen vision
tower sees. The MAE of {mae:.2f} lies between {mae_ci_low:.2f} and {mae_ci_high:.2f} with 95 %
confidence (block bootstrap, because neighbouring frames are alike). Its counts are off by
{bias:+.2f} people on average; its 80 % interval, {width_80:.1f} people wide, holds the true number
in {coverage_80:.0%} of the frames."""

MERGED = """The merged weights are {dtype}: another model than the adapter on its backbone, which
has figures of its own. These are of the merged one."""

TRAINING = """- Backbone: frozen, {four_bit}, computed in {dtype}.
- Adapter: {method} of rank {r}, alpha {alpha:g}, in float32, on {parts}.
- Frames: {passes} over the training frames{augmented}, {batch} a step; split `{split}`.
- Learning rate: {rate:g} at its peak, {scheduler}; loss: {loss}, on the answer's digits and the end
  of the answer alone.
- Picture: brought to a square by `{geometry}`{border}.
- Made with {packages}.
- The adapter's weights have sha256 `{sha256}`."""

OURS = """With llava-dvc, {read}, with its interval:

```bash
llava-dvc predict frame.jpg --adapter {repo}
```

"""

PLAIN = """With transformers{peft} alone, the greedy reply (a number; no interval). The chat
template and the geometry come with the processor:"""

BORDER = """Only llava-dvc answers as it was evaluated: the border of the padded frame takes no
tokens, which transformers alone does not do."""

FOUR_BIT = """\
whole = ["model.vision_tower", "model.multi_modal_projector", "lm_head"]  # not in 4-bit
four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", \
bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype={dtype}, llm_int8_skip_modules=whole)
"""

EXACT = """\
for layer in model.modules():
    layer.support_avx512bf16_for_cpu = False  # else CPUs that can compute 4-bit layers in bfloat16
"""

SCRIPT = """import torch
{peft}from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, {bits}LlavaForConditionalGeneration

repo, frame = {repo}, Image.open("frame.jpg").convert("RGB")
processor = AutoProcessor.from_pretrained(repo)
processor.image_processor = AutoImageProcessor.from_pretrained(repo, backend="pil")
{config}model = LlavaForConditionalGeneration.from_pretrained({base}{revision}, dtype={dtype}, \
device_map="{device}"{quantized})
{tuned}{exact}question = [{{"type": "image"}}, {{"type": "text", "text": {question}}}]
prompt = processor.apply_chat_template([{{"role": "user", "content": question}}], \
add_generation_prompt=True)
inputs = processor(images=frame, text=prompt, add_special_tokens=False, return_tensors="pt")
inputs = inputs.to(model.device, model.dtype)
{autocast}ids = model.generate(**inputs, max_new_tokens=16, do_sample=False)
print(processor.decode(ids[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))"""

LIMITS = """It knows the camera, the hours and the crowds of its training frames. Another camera,
another height or another light needs frames of its own. It answers with at most {highest} people,
and with a number to anything that it is shown. It was not made for, and must not be the only
ground of, decisions about single people or about safety."""

PRIVACY = """No frame is in this repository: the figures show numbers alone, and the contact sheet
of the worst frames stays where it was made. It counts and identifies no one. A tuned model may
still carry traces of what it was tuned on, so share it as widely as you would share the camera.
Who films people needs a reason and a right to, and has to say so."""

TERMS = """The licence above is that of the backbone, `{base}`, under which what is tuned from it
comes. The frames (data version `{data}`) are not in here and keep the terms under which they were
got: data given for research only, as the Mall data set is, binds this model too."""
