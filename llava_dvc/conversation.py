"""The question and its answer: as text, and as the messages of a chat."""

from dataclasses import dataclass
from typing import Any

PLACEHOLDER = "{count}"
"""Stands for the label in an answer of data/messages.txt."""

Messages = list[dict[str, Any]]
"""The turns of one conversation, as Hugging Face's chat templates take them."""


@dataclass(frozen=True)
class Conversation:
    """One phrasing: a question, and an answer in which PLACEHOLDER stands for the label."""

    question: str
    answer: str = PLACEHOLDER

    def messages(self, count: int | None) -> Messages:
        """Both turns; with `count` None the user's alone."""
        image, text = {"type": "image"}, {"type": "text", "text": self.question}
        turns: Messages = [{"role": "user", "content": [image, text]}]
        if count is not None:
            answer = self.answer.replace(PLACEHOLDER, format_count(count))
            turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
        return turns


def question_text(messages: Messages) -> str:
    """The text of the user's question."""
    parts = messages[0]["content"]
    return str(next(part["text"] for part in parts if part["type"] == "text"))


def format_count(count: int) -> str:
    """A count as the model writes it: `parse_count` reads it back."""
    return str(count)


def parse_count(reply: str) -> int | None:
    """The number in `reply`. None if it has anything but digits and outer blanks."""
    text = reply.strip()
    return int(text) if text.isascii() and text.isdigit() else None
