"""The error that a user can mend, and its texts where a result depends on the code around them.

Modules that train or count take their error texts from here. A better text then changes no stage's
dependencies, and never retrains a model.
"""

from pathlib import Path

MIB = 2**20


class UserError(ValueError):
    """A mistake the user can correct. Its text is shown as it is, without a traceback."""


def not_found(path: Path) -> UserError:
    """A stage's output is missing."""
    return UserError(f"{path}: not found; run `dvc repro`")


def invalid_json(path: Path, line: int) -> UserError:
    """A JSON file is cut off or was edited."""
    return UserError(f"{path}:{line}: not valid JSON; delete it and run `dvc repro`")


def disk_too_full(path: Path, free: int, needed: int) -> UserError:
    """`free` and `needed` are bytes."""
    return UserError(
        f"{path}: {free / MIB:.0f} MiB free on its disk, DVC's copy needs {needed / MIB:.0f} MiB; "
        "make room and run `dvc repro` again"
    )


def recipe_not_found(path: Path) -> UserError:
    """The folder is not an adapter of ours."""
    return UserError(f"{path}: not found; run `dvc repro`, or name an adapter's folder")


def invalid_recipe(path: Path, where: str, reason: str) -> UserError:
    """A key of recipe.json is missing or has a wrong value."""
    return UserError(f"{path}: {where}: {reason}; rebuild it with `dvc repro`")


def weights_not_found(path: Path) -> UserError:
    """An adapter's folder has no safetensors file."""
    return UserError(f"{path}: not found; take a whole adapter")


def mixed_frame_sizes(first: tuple[int, int], other: tuple[int, int]) -> UserError:
    """Sizes are width and height in pixels."""
    names = " and ".join(f"{width}x{height}" for width, height in (first, other))
    return UserError(
        f"image.drop_border: is true, but frames are {names}; bring all to one size, or set it to "
        "false and train anew"
    )


def joined_tokens(text: str) -> UserError:
    """The tokenizer makes one token of the prompt's end and the answer's start."""
    return UserError(
        f"backbone.name: its tokenizer joins prompt and answer in {text[-24:]!r}; choose a "
        "LLaVA-1.5-shaped checkpoint"
    )


def uneven_batch(batch_size: int, processes: int) -> UserError:
    """`train.batch_size` is no multiple of the number of processes."""
    return UserError(
        f"train.batch_size: is {batch_size}, which {processes} processes cannot share evenly; make "
        f"it a multiple of {processes}"
    )


def count_above_max(max_count: int, frame: str, count: int) -> UserError:
    """A label is larger than any answer can be."""
    return UserError(
        f"evaluate.max_count: is {max_count}, but {frame} has {count} people; raise it"
    )


def training_is_running(other: str) -> UserError:
    """`other` says which folder another training holds, and its process."""
    return UserError(f"{other}; wait for it or stop it, then run `dvc repro`")
