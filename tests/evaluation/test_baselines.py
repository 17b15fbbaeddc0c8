"""The rival that needs no language: ridge regression on the frozen tower's features."""

import numpy as np
from datasets import Dataset
from transformers import LlavaForConditionalGeneration

from llava_dvc.evaluation.baselines import REGIONS, ridge_features, tower_features
from llava_dvc.model.encoder import Encoder


def test_features_are_region_means_of_the_patches_llava_reads(
    backbone: LlavaForConditionalGeneration, encoder: Encoder, rows: Dataset
) -> None:
    found = tower_features(backbone, encoder, rows)
    assert found.shape == (8, REGIONS**2 * 64)
    pixels = encoder.processor.image_processor(rows[3]["image"], return_tensors="pt")[
        "pixel_values"
    ]
    states = backbone.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    # 16 patches in 4 x 4 regions: each region is one patch, channels first.
    patches = states[-2][0, 1:].detach().numpy()
    assert np.allclose(found[3].reshape(64, 16).T, patches, atol=1e-4)


def test_ridge_recovers_labels_it_was_fitted_on(
    backbone: LlavaForConditionalGeneration, encoder: Encoder, rows: Dataset
) -> None:
    # Validated on its own frames, the weakest strength wins and the fit is nearly exact.
    guess = ridge_features(backbone, encoder, rows, rows, rows)
    assert np.abs(guess - np.array(rows["count"])).max() < 2
    assert (guess >= 0).all()
