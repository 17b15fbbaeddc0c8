import numpy as np
import pytest
import torch

from llava_dvc.conversation import answer_ids, encode, render_prompt
from llava_dvc.counting import (
    Answers,
    CountTree,
    ceiling,
    count_probabilities,
    decode,
    expected,
    generate,
    parse_count,
    predict,
    quantile,
    tree_scores,
)
from tests.conftest import conversation, frame


@pytest.fixture
def prompt(processor):
    return render_prompt(processor, conversation(0))


def brute_force(model, processor, images, prompt, max_count):
    """P(count) by scoring every written number as its own sequence."""
    eos = processor.tokenizer.eos_token
    columns = []
    for count in range(max_count + 1):
        text = f"{prompt}{count}{eos}"
        answer = torch.tensor(answer_ids(processor, prompt, text))
        with torch.inference_mode():
            logits = model(**encode(processor, images, [text] * len(images))).logits
        steps = logits[:, -len(answer) - 1 : -1].log_softmax(-1)
        columns.append(steps[:, range(len(answer)), answer].sum(dim=1))
    return torch.stack(columns, dim=1).softmax(dim=1)


def test_one_pass_equals_scoring_every_number(backbone, processor, prompt):
    images = [frame(1), frame(2), frame(3)]
    tree = CountTree.build(processor, prompt, 60)
    scores = tree_scores(backbone, encode(processor, images, [prompt] * 3), tree)
    quick = count_probabilities(scores, tree)
    slow = brute_force(backbone, processor, images, prompt, 60)
    torch.testing.assert_close(quick.log(), slow.log(), atol=2e-5, rtol=0)


def test_tree_shares_digits(processor, prompt):
    tree = CountTree.build(processor, prompt, 60)
    assert len(tree.tokens) == 61  # ten first digits, 51 second ones
    assert len(set(tree.leaves)) == 61


def test_reply_is_what_generation_writes(backbone, processor, prompt):
    question = conversation(0)[:1]
    images = [frame(seed) for seed in range(6)]
    replies = predict(backbone, processor, images, question, 60, batch_size=4).replies
    batch = encode(processor, images, [prompt] * 6)
    assert replies == generate(backbone, processor, batch, list(range(6)))


def test_batch_size_does_not_change_the_answer(backbone, processor):
    images = [frame(seed) for seed in range(5)]
    one, many = (
        predict(backbone, processor, images, conversation(0)[:1], 30, size).probabilities
        for size in (1, 5)
    )
    np.testing.assert_allclose(one, many, atol=1e-6)
    np.testing.assert_allclose(one.sum(axis=1), 1)


def test_readouts():
    probabilities = np.array([[0.1, 0.3, 0.2, 0.4], [0.0, 0.0, 0.0, 1.0]])
    assert quantile(probabilities, 0.5).tolist() == [2, 3]
    assert quantile(probabilities, 0.1).tolist() == [0, 3]
    np.testing.assert_allclose(expected(probabilities), [1.9, 3.0])
    answers = Answers(probabilities, ["many", " 2"])
    assert decode(answers, "median").tolist() == [2, 3]
    assert decode(answers, "mean").tolist() == [2, 3]
    assert decode(answers, "mode").tolist() == [3, 3]
    assert decode(answers, "greedy").tolist() == [3, 2]  # no number in "many": the mode


@pytest.mark.parametrize(
    ("reply", "count"),
    [
        ("31", 31),
        (" 7 ", 7),
        ("", None),
        ("31 people", None),
        ("-3", None),
        ("3.5", None),
        ("٣", None),
    ],
)
def test_parse_count(reply, count):
    assert parse_count(reply) == count


def test_ceiling_is_above_what_was_trained_on():
    assert ceiling([3, 40, 12]) == 80
    assert ceiling([0, 1]) == 9
