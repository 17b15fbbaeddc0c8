"""messages.txt: example conversations, in which `{count}` stands for the label."""

import json
import re
from pathlib import Path

from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.data_errors import DataError, Problem
from llava_dvc.data.folders import inside, link


def read_conversations(data: Path) -> list[Conversation]:
    """The phrasings of messages.txt; raises DataError with every bad line.

    Blank lines and lines that start with # are comments.
    """
    conversations, problems = scan_conversations(data)
    if problems:
        raise DataError(problems)
    return conversations


def scan_conversations(data: Path) -> tuple[list[Conversation], list[Problem]]:
    """Nothing of it can be skipped: a phrasing that is lost would change what is trained."""
    path = data / "messages.txt"

    def problem(text: str, line: int | None = None) -> Problem:
        place = f"{path}:{line}" if line else str(path)
        return Problem("messages", place, text, skippable=False)

    if not path.is_file():
        remedy = "Run `dvc pull data.dvc`, or write one example conversation per line (see README)."
        return [], [problem(f"not found. {remedy}")]
    if not inside(path, data):
        return [], [link(path, data)]
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    conversations, problems = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                line.encode()
                conversations.append(parse_conversation(line))
            except UnicodeEncodeError:
                problems.append(problem("is not UTF-8. Save the file as UTF-8.", number))
            except ValueError as error:
                problems.append(problem(str(error), number))
    if not conversations and not problems:
        problems = [problem("holds no conversation. Write at least one line (see README).")]
    return conversations, problems


def format_conversation(conversation: Conversation) -> str:
    """One line of messages.txt, without its line end."""
    user = conversation.messages(count=None)
    content = [{"type": "text", "text": conversation.answer}]
    messages = [*user, {"role": "assistant", "content": content}]
    return json.dumps({"messages": messages}, ensure_ascii=False)


def parse_conversation(line: str) -> Conversation:
    """The inverse of format_conversation; raises ValueError."""
    try:
        example = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}. Mend it.") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply. Mend it.") from None
    match example:
        case {"messages": [{"role": "user", "content": asked}, answered]}:
            question = _question(asked)
        case _:
            raise ValueError(f"{_MESSAGES} {_EXAMPLE}")
    match answered:
        case {"role": "assistant", "content": [{"type": "text", "text": str(answer)}]}:
            return Conversation(question, _answer(answer))
        case _:
            raise ValueError(f"expected one assistant text as the second message. {_EXAMPLE}")


_MESSAGES = "expected `messages` with one user and then one assistant message."
_EXAMPLE = f"Write it as {format_conversation(Conversation('How many people?', PLACEHOLDER))}"


def _question(content: object) -> str:
    match content:
        case [{"type": "image"}, {"type": "text", "text": str(text)}]:
            pass
        case _:
            raise ValueError(f"expected one image and then one text from the user. {_EXAMPLE}")
    if not text.strip():
        raise ValueError("the question is blank. Write one.")
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("the question holds half of a character, \\ud800 to \\udfff. Remove it.")
    for mark in (PLACEHOLDER, "<image>"):
        if mark in text:
            raise ValueError(f"the question holds {mark}, which is put in for you. Remove it.")
    return text


def _answer(text: str) -> str:
    if text != PLACEHOLDER:
        raise ValueError(
            f"the assistant text is {text!r}, expected just {PLACEHOLDER}: answers are trained "
            "and read as digits only."
        )
    return text
