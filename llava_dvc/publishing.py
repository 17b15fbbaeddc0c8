"""The folder that leaves: adapter, processor, recipe, figures, model card and manifest. The same
bytes every time.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from llava_dvc import config
from llava_dvc.outs import WORST, files_in, write_json
from llava_dvc.recipe import Recipe

METRICS = ("mae", "rmse", "bias", "accuracy", "f1_macro", "f1_weighted", "within_3")


def build(
    folder: Path,
    adapter: Path,
    report: dict[str, Any],
    *,
    baseline: dict[str, dict[str, float]],
    metrics: dict[str, Any],
    predictions: Path,
    plots: Path,
    evaluate: config.Evaluate,
    publish: config.Publish,
) -> None:
    """Fill `folder` from an adapter and its evaluation."""
    shutil.copytree(adapter, folder, dirs_exist_ok=True)
    shutil.copytree(plots, folder / "plots", ignore=shutil.ignore_patterns(WORST))
    write_json(folder / "metrics" / "evaluate.json", metrics)
    write_json(folder / "metrics" / "baseline.json", baseline)
    recipe = Recipe.read(folder).model_copy(
        update={
            "decode": evaluate.decode,
            "max_count": evaluate.max_count,
            "temperature": metrics["temperature"],
        }
    )
    recipe.write(folder)
    card = ModelCard(f"---\n{metadata(recipe, report, metrics, publish).to_yaml()}\n---\n" + text(
        recipe, report, baseline, metrics, publish
    ))  # fmt: skip
    (folder / "README.md").write_text(str(card), encoding="utf-8")
    inputs = {"data": report["data_md5"], "predictions": md5(predictions)}
    write_json(folder / "manifest.json", {"inputs_md5": inputs, "files": listing(folder)})


def metadata(
    recipe: Recipe, report: dict[str, Any], metrics: dict[str, Any], publish: config.Publish
) -> ModelCardData:
    """What the Hub reads of a card."""
    hub_id = recipe.backbone.name if recipe.backbone.revision else None
    results = [
        EvalResult(
            task_type="image-text-to-text",
            task_name="Counting people",
            dataset_type="private",
            dataset_name=f"held-out frames of data {report['data_md5']}",
            metric_type=name,
            metric_value=metrics[name],
        )
        for name in METRICS
    ]
    return ModelCardData(
        base_model=hub_id,
        model_name=publish.repo.split("/")[1],
        library_name="peft",
        pipeline_tag="image-text-to-text",
        tags=["llava", "lora", "qlora", "trl", "crowd-counting", "cctv"],
        eval_results=results,
    )


def text(
    recipe: Recipe,
    report: dict[str, Any],
    baseline: dict[str, dict[str, float]],
    metrics: dict[str, Any],
    publish: config.Publish,
) -> str:
    """The card's prose and tables."""
    named = {name.replace("_", " "): row for name, row in baseline.items()}
    rows = "\n".join(
        f"| {name} | {row['mae']:.2f} | {row['rmse']:.2f} | {row['accuracy']:.1%} |"
        for name, row in {**named, "this adapter": metrics}.items()
    )
    train = report["splits"]["train"]
    revision = f" at revision `{recipe.backbone.revision}`" if recipe.backbone.revision else ""
    return CARD.format(
        name=publish.repo.split("/")[1],
        backbone=recipe.backbone.name,
        revision=revision,
        quantization=recipe.backbone.quantization,
        geometry=recipe.image.geometry,
        question=recipe.question,
        train=train["frames"],
        mean=train["mean"],
        frames=metrics["frames"],
        rows=rows,
        low=metrics["mae_ci_low"],
        high=metrics["mae_ci_high"],
        data=report["data_md5"],
    )


def listing(folder: Path) -> list[dict[str, Any]]:
    """Path, size and sha256 of every file in `folder`."""
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files_in(folder)
    ]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


CARD = """
# {name}

A LoRA adapter for `{backbone}`{revision} that answers one question about a CCTV frame: *{question}*
It was tuned on {train} labelled frames (mean {mean:.1f} people) of the camera it is meant for.

## How well it counts

On {frames} later frames that it was not trained on (data version `{data}`):

| | MAE | RMSE | exact |
|---|---|---|---|
{rows}

MAE and RMSE are in people. The adapter's MAE lies between {low:.2f} and {high:.2f} with 95 %
confidence (block bootstrap, because neighbouring frames are alike).

![Counted against true numbers](plots/prediction_vs_truth.png)

## How it answers

The backbone is loaded with `{quantization}` weights, the frame is brought to a square by
`{geometry}`, and the number is read from the probabilities of all written counts; `recipe.json`
holds every setting. With llava-dvc installed:

```bash
llava-dvc predict frame.jpg --adapter published
```

## Limits

It knows the camera and the hours of its training frames. Another camera, another height or
another light needs frames of its own. It counts; it does not identify anyone. Who films people
must have the right to, and say so.
"""
