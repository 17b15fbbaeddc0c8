"""The error that a user can correct, and the texts of what trains and counts.

Modules that train or count take the texts of their errors and notes from here. A better text then
changes no stage's dependencies, and never retrains a model.
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
    return UserError(f"{path}: not found; use a complete adapter folder")


def foreign_template(folder: Path) -> UserError:
    """The folder's chat template is not `model.chat_template.CHAT_TEMPLATE`."""
    return UserError(
        f"{folder}/chat_template.jinja: is not the chat template of this version; train again, or "
        "use the version that made the adapter"
    )


def mixed_frame_sizes(first: tuple[int, int], other: tuple[int, int]) -> UserError:
    """Sizes are width and height in pixels."""
    names = " and ".join(f"{width}x{height}" for width, height in (first, other))
    return UserError(
        f"image.drop_border: is true, but frames are {names}; make all frames one size, or set it "
        "to false and train again"
    )


def joined_tokens(text: str) -> UserError:
    """The tokenizer makes one token of the prompt's end and the answer's start."""
    return UserError(
        f"backbone.name: its tokenizer joins prompt and answer in {text[-24:]!r}; choose a "
        "checkpoint with the architecture of LLaVA-1.5"
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


def training_is_running(folder: Path, pid: str) -> UserError:
    """Another process holds the checkpoint folder."""
    return UserError(
        f"{running_training(folder, pid)}; wait for it or stop it, then run `dvc repro`"
    )


def running_training(folder: Path, pid: str) -> str:
    """The line about another process that holds the checkpoint folder."""
    return f"{folder}: another training of the same settings is running (PID {pid})"


def waiting_for_training(folder: Path, pid: str, seconds: float) -> str:
    """The line before the wait for another process."""
    return f"{running_training(folder, pid)}; waiting {seconds:g} s for it\n"


def stopping(signal: str) -> str:
    """The line after SIGTERM or Ctrl-C."""
    return f"{signal}: stopping with a checkpoint after this step; `dvc repro` goes on from it\n"


def checkpoint_deleted(checkpoint: Path) -> str:
    """The line about a checkpoint that was cut off."""
    return f"{checkpoint}: not complete, deleted\n"
