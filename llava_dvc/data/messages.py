"""Reads and writes messages.txt: one example conversation a line, `{count}` for the label."""

import json
import re
from pathlib import Path

from llava_dvc.conversation import PLACEHOLDER, Conversation
from llava_dvc.data.data_errors import DataError, DataProblem
from llava_dvc.data.folders import is_inside, link_problem

MAX_BYTES = 16 * 2**20


def read_conversations(data: Path) -> list[Conversation]:
    """The conversations in messages.txt; raises DataError with every invalid line.

    Blank lines and lines that start with # are comments.
    """
    conversations, problems = scan_conversations(data)
    if problems:
        raise DataError(problems)
    return conversations


def scan_conversations(data: Path) -> tuple[list[Conversation], list[DataProblem]]:
    """The valid conversations and the problems of messages.txt.

    No problem can be skipped: with fewer conversations another adapter would be trained.
    """
    path = data / "messages.txt"
    if not path.is_file():
        text = (
            "not found. To restore it, run `git checkout data.dvc && dvc pull data.dvc`. Or write "
            "one example conversation a line (see docs/data.md)."
        )
        return [], [_message_problem(str(path), text)]
    if not is_inside(path, data):
        return [], [link_problem(path, data)]
    if (size := path.stat().st_size) > MAX_BYTES:
        text = f"has {size:,} bytes, more than {MAX_BYTES:,}. Keep fewer conversations."
        return [], [_message_problem(str(path), text)]
    conversations, problems = [], []
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                conversations.append(_parse_line(line))
            except ValueError as error:
                problems.append(_message_problem(f"{path}:{number}", str(error)))
    if not conversations and not problems:
        text = "has no conversation. Write at least one line (see docs/data.md)."
        problems = [_message_problem(str(path), text)]
    return conversations, problems


def _message_problem(place: str, text: str) -> DataProblem:
    return DataProblem("messages", place, text, skippable=False)


def _parse_line(line: str) -> Conversation:
    try:
        line.encode()  # fails on the bytes that `surrogateescape` has let through
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8. Save the file as UTF-8.") from None
    return parse_conversation(line)


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
        raise ValueError(f"not JSON: {error.msg} at column {error.colno}. Correct it.") from None
    except RecursionError:
        raise ValueError("not JSON: nested too deeply. Correct it.") from None
    except ValueError:  # Python reads no integer of more than 4300 digits
        raise ValueError("not JSON: a number has too many digits. Correct it.") from None
    match example:
        case {"messages": [{"role": "user", "content": asked}, answered]}:
            question = _parse_question(asked)
        case _:
            raise ValueError(f"{_EXPECTED} {_EXAMPLE}")
    match answered:
        case {"role": "assistant", "content": [{"type": "text", "text": str(answer)}]}:
            return Conversation(question, _require_placeholder(answer))
        case _:
            raise ValueError(f"expected one assistant text as the second message. {_EXAMPLE}")


_EXPECTED = "expected `messages` with one user and then one assistant message."
_EXAMPLE = f"Write it as {format_conversation(Conversation('How many people?', PLACEHOLDER))}"


def _parse_question(content: object) -> str:
    match content:
        case [{"type": "image"}, {"type": "text", "text": str(text)}]:
            pass
        case _:
            raise ValueError(f"expected one image and then one text from the user. {_EXAMPLE}")
    if not text.strip():
        raise ValueError("the question is blank. Write a question.")
    if re.search("[\ud800-\udfff]", text):
        raise ValueError(
            "the question contains half of a surrogate pair, \\ud800 to \\udfff. Remove it."
        )
    for marker in (PLACEHOLDER, "<image>"):
        if marker in text:
            raise ValueError(
                f"the question contains {marker}. Remove it: llava-dvc adds it where it is needed."
            )
    return text


def _require_placeholder(text: str) -> str:
    if text != PLACEHOLDER:
        raise ValueError(
            f"the assistant text is {text!r}, expected only {PLACEHOLDER}. Write {PLACEHOLDER}: "
            "the model learns to answer with digits only."
        )
    return text
