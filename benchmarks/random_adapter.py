"""Writes an adapter and its backbone: LLaVA-1.5-7B with random weights, as the preset has it.

    python -m benchmarks.random_adapter SKELETON FOLDER
    python -m benchmarks.random_adapter SKELETON FOLDER --set image.drop_border=true --name narrow

FOLDER/backbone then has the weights (14 GB), and FOLDER/NAME what `predict`, `watch` and `serve`
load. There is no manifest, so nobody digests the weights. Without a GPU the adapter is of float32
on the CPU: for a skeleton of few and narrow layers.

Every answer is a digit and then the end, as a tuned model writes. Other replies would be generated
token by token, each alone.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from benchmarks.random_model import make_weights, preset, untrained_adapter
from llava_dvc.model.adapter import save_adapter
from llava_dvc.training.count_trainer import adapter_weights

LARGE = 100.0
"""Of one feature of every embedding: far above what the layers add to it."""
ON_CPU = ["backbone.device=cpu", "backbone.dtype=float32", "backbone.threads=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("skeleton", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="adapter", help="of the adapter's folder")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING", help="of the preset")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    make_weights(arguments.skeleton, folder / "backbone", write_digits)
    settings = [*([] if torch.cuda.is_available() else ON_CPU), *arguments.set]
    model, encoder, recipe = untrained_adapter(preset(folder / "backbone", settings))
    save_adapter(model, adapter_weights(model), encoder, recipe, folder / arguments.name)


@torch.no_grad()
def write_digits(model: LlavaForConditionalGeneration, skeleton: Path) -> None:
    """Makes digits the likeliest tokens after any text, and the end after a digit.

    Feature 1 of a hidden state says that the last token was a digit, feature 0 that it was none.
    """
    tokenizer = AutoProcessor.from_pretrained(skeleton).tokenizer
    digits = tokenizer.convert_tokens_to_ids(list("0123456789"))
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding[:, 0], embedding[:, 1] = LARGE, 0.0
    embedding[digits, :2] = embedding.new_tensor([0.0, LARGE])
    head[:, :2] = 0.0
    head[digits, 0] = head[tokenizer.eos_token_id, 1] = 1.0


if __name__ == "__main__":
    main()
