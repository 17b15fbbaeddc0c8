"""Read `prepared/`: a Hugging Face DatasetDict of frames with their conversations."""

from pathlib import Path

from datasets import Dataset, Features, Image, List, Value, load_from_disk

from llava_dvc.config import UserError

CONTENT = List({"type": Value("string"), "text": Value("string")})
FEATURES = Features(
    {
        "frame": Value("string"),
        "image": Image(),
        "count": Value("int64"),
        "camera": Value("string"),
        "messages": List({"role": Value("string"), "content": CONTENT}),
    }
)


def load_split(prepared: Path, name: str) -> Dataset:
    """Raises UserError when prepared/ is not there."""
    try:
        return load_from_disk(str(prepared / name))
    except FileNotFoundError:
        raise UserError(f"{prepared / name}: not found; run `dvc repro`") from None


def question(rows: Dataset) -> str:
    """The text of the question that evaluation asks."""
    parts = rows[0]["messages"][0]["content"]
    return str(next(part["text"] for part in parts if part["type"] == "text"))
