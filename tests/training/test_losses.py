"""What a wrong number costs, and that training sees the distribution that counting reads."""

import pytest
import torch

from llava_dvc.conversation import question_text
from llava_dvc.model.backbone import load_backbone
from llava_dvc.model.chat_template import render_prompt
from llava_dvc.model.count_tree import CountTree
from llava_dvc.model.counting import score
from llava_dvc.training.collator import Collator
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec
from llava_dvc.training.losses import WIDTH, count_loss, label_distribution


@pytest.fixture
def tree(encoder, rows):
    return CountTree.build(
        encoder.processor, render_prompt(encoder.processor, rows[0]["messages"]), 60
    )


def test_training_scores_what_counting_scores(backbone, encoder, rows, tree):
    """Behind answers and padding of other lengths, the tree's nodes see the prompt alone."""
    few = [rows[0], rows[1], rows[3]]
    batch = Collator(encoder)(few)
    starts, kept = batch["answer_starts"], batch["logits_to_keep"]
    length = batch["input_ids"].shape[1]
    given = {name: batch[name] for name in ("input_ids", "pixel_values", "logits_to_keep")}
    prompt = encoder.prompt(question_text(few[0]["messages"]))
    asked = encoder.encode([row["image"] for row in few], [prompt] * 3)
    with torch.inference_mode():
        logits = backbone(**tree.append_to(given, starts, backbone.dtype)).logits
        plain = backbone(**given).logits
        expected = tree.log_probabilities(score(backbone, asked, tree).nodes)
    ends = starts - 1 - (length - kept)
    nodes = torch.cat(
        [logits[torch.arange(3), ends][:, None], logits[:, -len(tree.tokens) :]], dim=1
    )
    found = tree.log_probabilities(nodes.log_softmax(-1))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(logits[:, :kept], plain, atol=1e-4, rtol=1e-4)


def test_a_label_is_spread_over_its_neighbours():
    spread = label_distribution(torch.tensor([0, 5]), 61)
    torch.testing.assert_close(spread.sum(dim=1), torch.ones(2))
    assert spread.argmax(dim=1).tolist() == [0, 5]
    torch.testing.assert_close(spread[1, 4], spread[1, 6])
    ratio = torch.tensor(-0.5 / WIDTH**2).exp()
    torch.testing.assert_close(spread[1, 6] / spread[1, 5], ratio)


@pytest.mark.parametrize("kind", ["soft", "expected"])
def test_a_near_miss_costs_less_than_a_far_one(tree, kind):
    """Logits that write 31 with certainty: a slip in the tens costs more than one in the units."""
    size = int(tree.chosen.max()) + 1
    logits = torch.zeros(1, len(tree.tokens) + 1, size)
    way = tree.paths[31]
    logits[0, tree.at[way], tree.chosen[way]] = 12
    cost = {
        count: float(count_loss(logits, torch.tensor([0]), tree, torch.tensor([count]), kind))
        for count in (31, 30, 21, 13)
    }
    assert cost[31] < cost[30] < cost[13]
    assert kind == "soft" or cost[30] < cost[21] < cost[13]
    if kind == "expected":
        assert cost[21] == pytest.approx((10 / WIDTH) ** 2 / 2, rel=0.02)


@pytest.mark.parametrize("kind", ["soft", "expected"])
def test_it_is_added_to_cross_entropy(cfg, encoder, rows, tmp_path, kind):
    losses = {}
    for name in ("ce", kind):
        model = load_backbone(cfg.backbone)
        recipe = cfg.train.model_copy(update={"loss": name})
        spec = TrainingSpec(rows, rows, cfg.adapter, recipe, 0, tmp_path / name)
        trainer = CountTrainer(model, encoder, spec)
        batch = Collator(encoder)([rows[0], rows[3]])
        tokens = int((batch["labels"] != -100).sum())
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=tokens)
        losses[name] = loss.item()
        loss.backward()
    assert losses[kind] > losses["ce"] + 0.1
    assert all(p.grad is not None for p in trainer.model.parameters() if p.requires_grad)
