"""messages.txt: which lines are accepted, and how an invalid line is named."""

import json
import re

import pytest

from llava_dvc.data.data_errors import DataError
from llava_dvc.data.messages import (
    Conversation,
    format_conversation,
    parse_conversation,
    read_conversations,
)

QUESTION = "How many people are in this image? Answer with a single number."


def example(**changes) -> str:
    parts = {
        "image": [{"type": "image"}],
        "question": [{"type": "text", "text": QUESTION}],
        "answer": "{count}",
        "roles": ("user", "assistant"),
    } | changes
    contents = (parts["image"] + parts["question"], [{"type": "text", "text": parts["answer"]}])
    turns = zip(parts["roles"], contents, strict=False)
    return json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]})


def test_a_conversation_becomes_messages():
    conversation = Conversation(QUESTION, "{count}")
    user = {
        "role": "user",
        "content": [{"type": "image"}, {"type": "text", "text": QUESTION}],
    }
    assistant = {"role": "assistant", "content": [{"type": "text", "text": "31"}]}
    assert conversation.messages(count=None) == [user]
    assert conversation.messages(count=31) == [user, assistant]


def test_the_contract_line_is_read():
    assert parse_conversation(example()) == Conversation(QUESTION, "{count}")


def test_a_conversation_survives_a_round_trip():
    conversation = Conversation('사람이 "몇" 명 {있나요}?\n숫자만.', "{count}")
    line = format_conversation(conversation)
    assert "\n" not in line
    assert parse_conversation(line) == conversation


def test_comments_and_blank_lines_are_skipped(tmp_path):
    text = f"# English\r\n{example()}\r\n\n  \n{example()}"
    (tmp_path / "messages.txt").write_text(text, encoding="utf-8", newline="")
    assert len(read_conversations(tmp_path)) == 2


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"messages": [', "not JSON: Expecting value at column 15"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        ("1" * 5000, "not JSON: a number has too many digits. Correct it."),
        ("[]", "expected `messages` with one user and then one assistant message"),
        (example(roles=("system", "user")), "expected `messages` with one user and then"),
        (example(roles=("user",)), "expected `messages` with one user and then"),
        (example(roles=("user", "user")), "expected one assistant text as the second message"),
        (example(image=[]), "expected one image and then one text from the user"),
        (example(image=[{"type": "image"}] * 2), "expected one image and then one text"),
        (example(question=[]), "expected one image and then one text"),
        (example(question=[{"type": "text", "text": " "}]), "the question is blank"),
        (example(question=[{"type": "text", "text": "{count}?"}]), "the question contains {count}"),
        (example(question=[{"type": "text", "text": "<image>?"}]), "the question contains <image>"),
        (
            example(question=[{"type": "text", "text": "\ud83d?"}]),
            "the question contains half of a surrogate pair",
        ),
        (example(answer="{count} people"), "the assistant text is '{count} people', expected only"),
        (example(answer="31"), "the assistant text is '31', expected only {count}"),
    ],
)
def test_a_bad_conversation_is_named_by_its_line(tmp_path, line, reason):
    (tmp_path / "messages.txt").write_text(f"# first\n{example()}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(f"messages.txt:3: {reason}")) as caught:
        read_conversations(tmp_path)
    assert len(caught.value.problems) == 1


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(
        DataError,
        match=r"messages.txt: not found. To restore it, run `git checkout data.dvc && dvc pull",
    ):
        read_conversations(tmp_path)
    (tmp_path / "messages.txt").write_text("# nothing yet\n")
    with pytest.raises(DataError, match="has no conversation"):
        read_conversations(tmp_path)


def test_every_bad_line_is_named(tmp_path):
    lines = ["{", example(), "\udcff", example(answer="31")]
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    (tmp_path / "messages.txt").write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_conversations(tmp_path)
    places = [problem.place.removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert places == ["messages.txt:1", "messages.txt:3", "messages.txt:4"]
