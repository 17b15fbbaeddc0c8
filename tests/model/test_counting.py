from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL.ImageOps import mirror

from llava_dvc.conversation import parse_count
from llava_dvc.evaluation.decoding import decode, expected
from llava_dvc.model.backbone import backbone_encoder
from llava_dvc.model.chat_template import answer_ids, render_prompt
from llava_dvc.model.count_tree import CountTree
from llava_dvc.model.counting import (
    Answers,
    CountPredictor,
    Scores,
    default_max_count,
    generate,
    quantile,
    reply,
    score,
)
from tests.conftest import conversation, frame


@pytest.fixture
def prompt(encoder):
    return render_prompt(encoder.processor, conversation(0))


def brute_force(model, encoder, images, prompt, max_count):
    """P(count) by scoring every written number as its own sequence, token by token among those that
    lead to an allowed number.
    """
    eos = encoder.processor.tokenizer.eos_token
    answers = [
        tuple(answer_ids(encoder.processor, prompt, f"{prompt}{count}{eos}"))
        for count in range(max_count + 1)
    ]
    columns = []
    for answer in answers:
        text = prompt + encoder.processor.tokenizer.decode(answer)
        with torch.inference_mode():
            logits = model(**encoder.encode(images, [text] * len(images))).logits
        total = torch.zeros(len(images))
        for n, token in enumerate(answer):
            allowed = sorted({other[n] for other in answers if other[:n] == answer[:n]})
            steps = logits[:, n - len(answer) - 1, allowed].log_softmax(-1)
            total += steps[:, allowed.index(token)]
        columns.append(total)
    return torch.stack(columns, dim=1).exp()


def test_one_pass_equals_scoring_every_number(backbone, encoder, prompt):
    images = [frame(1), frame(2), frame(3)]
    tree = CountTree.build(encoder.processor, prompt, 60)
    scores = score(backbone, encoder.encode(images, [prompt] * 3), tree)
    quick = tree.log_probabilities(scores.nodes)
    slow = brute_force(backbone, encoder, images, prompt, 60)
    torch.testing.assert_close(quick, slow.log(), atol=2e-5, rtol=0)


def test_tree_shares_digits(encoder, prompt):
    tree = CountTree.build(encoder.processor, prompt, 60)
    assert len(tree.tokens) == 6  # 1 to 6 begin longer numbers; 0, 7, 8 and 9 do not
    assert len({tuple(path) for path in tree.paths.tolist()}) == 61


def test_reply_is_what_generation_writes(backbone, encoder, prompt):
    question = "How many people?"
    images = [frame(seed) for seed in range(6)]
    replies = CountPredictor(backbone, encoder, question, 60).predict(images, 4).replies
    batch = encoder.encode(images, [prompt] * 6)
    assert replies == generate(backbone, encoder.processor, batch)


def test_what_follows_a_number_is_what_the_model_writes(backbone, encoder, prompt):
    images = [frame(1), frame(2)]
    tree = CountTree.build(encoder.processor, prompt, 60)
    batch = encoder.encode(images, [prompt] * 2)
    three, one = encoder.processor.tokenizer.convert_tokens_to_ids(["3", "1"])
    with torch.no_grad():
        logits = backbone(**encoder.encode(images, [f"{prompt}31"] * 2)).logits
    following = logits[:, -1].argmax(dim=-1).tolist()

    def answer(end):
        """As if the model had written 31 and `end` were the end token."""
        scores = score(backbone, batch, tree)
        nodes = scores.nodes.clone()
        nodes[:, 0, three] = nodes[:, tree.tokens.tolist().index(three) + 1, one] = 1
        length = batch["input_ids"].shape[1]
        return reply(backbone, length, Scores(nodes, scores.cache), replace(tree, end=end))

    for token in following:  # nothing else says that the reply is 31
        counts, ended = answer(token)
        assert counts.tolist() == [31, 31]
        assert ended.tolist() == [other == token for other in following]
    assert answer(tree.end)[1].tolist() == [token == tree.end for token in following]


def test_greedy_reads_one_and_two_digits_and_nothing_else(encoder, prompt):
    tree = CountTree.build(encoder.processor, prompt, 60)
    tokenizer = encoder.processor.tokenizer
    three, one, seven = tokenizer.convert_tokens_to_ids(["3", "1", "7"])
    behind = tree.tokens.tolist().index(three) + 1
    nodes = torch.zeros(4, len(tree.tokens) + 1, len(tokenizer))
    nodes[:3, 0, three] = 1
    nodes[0, behind, one] = nodes[1, behind, tree.end] = nodes[2, behind, tree.end + 5] = 1
    nodes[3, 0, seven] = 1
    counts, written = tree.greedy(nodes)
    assert written.tolist() == [True, True, False, True]
    assert counts[[0, 1, 3]].tolist() == [31, 3, 7]


def test_batch_size_does_not_change_the_answer(backbone, encoder):
    images = [frame(seed) for seed in range(5)]
    one, many = (
        CountPredictor(backbone, encoder, "How many people?", 30)
        .predict(images, size)
        .probabilities
        for size in (1, 5)
    )
    np.testing.assert_allclose(one, many, atol=1e-6)
    np.testing.assert_allclose(one.sum(axis=1), 1)


@pytest.mark.parametrize("drop_border", [False, True])
def test_a_flipped_answer_is_the_mean_of_two(backbone, cfg, drop_border):
    changed = cfg.image.model_copy(update={"drop_border": drop_border})
    encoder = backbone_encoder(cfg.backbone, changed)
    images = [frame(seed, (80, 30)) for seed in range(5)]
    mirrored = list(map(mirror, images))
    plain = CountPredictor(backbone, encoder, "How many people?", 60)
    flipped = CountPredictor(backbone, encoder, "How many people?", 60, flip=True)
    answers, own, other = (
        flipped.predict(images, 2),
        *(plain.predict(side, 2) for side in (images, mirrored)),
    )
    mean = (own.probabilities + other.probabilities) / 2
    np.testing.assert_allclose(answers.probabilities, mean, rtol=1e-5)
    assert abs(own.probabilities / mean - 1).max() > 1e-3
    assert answers.replies == own.replies
    swapped = flipped.predict(mirrored, 2)
    np.testing.assert_allclose(swapped.probabilities, answers.probabilities, rtol=1e-5)
    assert swapped.replies == other.replies


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
    assert default_max_count([3, 40, 12]) == 80
    assert default_max_count([0, 1]) == 9


def test_a_batch_is_what_the_encoder_makes_of_it(cfg, backbone):
    """The prompt is tokenized once. Threads change nothing."""
    image = cfg.image.model_copy(update={"geometry": "pad", "drop_border": True})
    encoder = backbone_encoder(cfg.backbone, image)
    predictor = CountPredictor(backbone, encoder, "How many?", 60)
    for size in [(80, 30), (64, 48), (80, 30)]:
        frames = [frame(seed, size) for seed in range(3)]
        expected = encoder.encode(frames, [predictor.prompt] * 3)
        for threads in (1, 3):
            _, found = predictor._collate(frames, threads)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)
