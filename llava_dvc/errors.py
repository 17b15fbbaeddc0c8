"""The error that a user can correct, and the texts of what trains and counts.

Modules that train or count take the texts of their errors and notes from here. A better text then
changes no stage's dependencies, and never retrains a model.
"""

import os
import reprlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from llava_dvc.masking import masked

MIB = 2**20
ENOUGH_FRAMES = 10
"""With fewer evaluation frames, every figure gets a warning."""
KEPT = "\n\u200c\u200d"
"""Line ends, and the joiners that emoji and some scripts need."""


class UserError(ValueError):
    """A mistake the user can correct. Its text is shown without a traceback.

    It holds no password or token: they are masked when the error is made.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(masked(text))


def check_endpoint() -> None:
    """Raises UserError when HF_ENDPOINT is no address. Then huggingface_hub cannot be imported."""
    address = os.environ.get("HF_ENDPOINT", "")
    try:
        parts = urlsplit(address)
        scheme, host, _ = parts.scheme, parts.hostname, parts.port
        if address and not (scheme in ("http", "https") and host):
            raise ValueError("it has no http:// or https://")
    except ValueError as error:
        raise UserError(
            f"HF_ENDPOINT: is not an address ({error}); write it as https://HOST, and / and @ in a "
            "password as %2F and %40"
        ) from None


def printable_text(text: str) -> str:
    """`text` with escapes for what a terminal would obey or cannot show, except line ends."""
    return "".join(
        char if char.isprintable() or char in KEPT else repr(char)[1:-1] for char in text
    )


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
        "free some space and run `dvc repro` again"
    )


ADAPTER_AGAIN = "use a complete adapter folder, or build it with `dvc repro`"


def recipe_not_found(path: Path) -> UserError:
    """The folder is not an adapter of ours."""
    return UserError(f"{path}: not found; run `dvc repro`, or name an adapter's folder")


def adapter_file_not_found(path: Path) -> UserError:
    """An adapter's folder lacks a file."""
    return UserError(f"{path}: not found; {ADAPTER_AGAIN}")


def foreign_template(folder: Path) -> UserError:
    """The folder's chat template is not `model.chat_template.CHAT_TEMPLATE`."""
    return UserError(
        f"{folder}/chat_template.jinja: is not the chat template of this version; train again, or "
        "use the version that made the adapter"
    )


def lfs_pointer(path: Path) -> UserError:
    """git has checked out the address of a large file in place of the file."""
    return UserError(
        f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
    )


def unreadable_adapter_file(path: Path, reason: str) -> UserError:
    """A file of an adapter is cut off, is of another format, or cannot be opened."""
    return UserError(f"{path}: cannot be read ({one_line(reason)}); {ADAPTER_AGAIN}")


def adapter_file_differs(path: Path, state: str) -> UserError:
    """`state` is changed, missing or new, compared with the manifest beside the file."""
    return UserError(
        f"{path}: is {state} since manifest.json was written; {ADAPTER_AGAIN}, or delete "
        "manifest.json if the change is yours"
    )


def not_regular(path: Path) -> UserError:
    """A device, a pipe or a link to nothing, where a file is expected. Reading it may never end."""
    return UserError(f"{path}: is not a regular file; delete it, or put the file itself there")


def too_large(path: Path, size: int, limit: int) -> UserError:
    """A file that is read as a whole has more than `limit` bytes."""
    return UserError(f"{path}: has {size:,} bytes, more than {limit:,}; {ADAPTER_AGAIN}")


def damaged_backbone(name: str, problem: str) -> UserError:
    """The backbone's weights are not all that its config.json describes."""
    return UserError(
        f"backbone.name: {name} {one_line(problem)}; download it again, or choose another "
        "checkpoint"
    )


def answer_not_finite() -> UserError:
    """The model gives NaN in place of probabilities."""
    return UserError(
        "the model answers NaN: weights of the adapter or of the backbone are damaged, or "
        "backbone.dtype is too narrow for them; use complete folders, or train again with "
        "another dtype"
    )


def missing_adapter_setting(path: Path, key: str) -> UserError:
    """A setting is not in one of an adapter's JSON files."""
    return UserError(f"{path}: {one_line(key)}: missing; {ADAPTER_AGAIN}")


def wrong_adapter_setting(path: Path, key: str, value: object, wanted: str) -> UserError:
    """A setting in one of an adapter's JSON files is not what llava-dvc writes."""
    found = one_line(reprlib.repr(value))
    return UserError(f"{path}: {one_line(key)}: is {found}: {one_line(wanted)}; {ADAPTER_AGAIN}")


def wrong_tensor(path: Path, tensor: str, problem: str, wrong: int = 1) -> UserError:
    """`wrong` is how many tensors of an adapter have the problem. `tensor` is the first of them."""
    count = "" if wrong == 1 else f" ({wrong} tensors are wrong like this)"
    return UserError(f"{path}: tensor {one_line(tensor)} {problem}{count}; {ADAPTER_AGAIN}")


def other_backbone(path: Path, name: str) -> UserError:
    """The backbone's weights are not those that the adapter's manifest names."""
    return UserError(
        f"{path}: inputs_md5.backbone: is not the digest of the weights in {name}; use the "
        "backbone that the adapter was trained on"
    )


def one_line(text: str) -> str:
    """At most 160 printable characters of a text that came from elsewhere."""
    words = " ".join("".join(c if c.isprintable() else " " for c in masked(text)).split())
    return words if len(words) <= 160 else f"{words[:157]}..."


def mixed_frame_sizes(
    first: tuple[int, int], other: tuple[int, int], tiles: tuple[int, int]
) -> UserError:
    """Sizes are width and height in pixels, `tiles` are columns and rows."""
    names = " and ".join(f"{width}x{height}" for width, height in (first, other))
    parts = "frames" if tiles == (1, 1) else "tiles"
    can_be_cut = "" if tiles == (1, 1) else f" that image.tiles {list(tiles)} divides evenly"
    return UserError(
        f"image.drop_border: is true, but {parts} are {names}; make all frames one size"
        f"{can_be_cut}, or set it to false and train again"
    )


def tiles_without_points(tiles: tuple[int, int]) -> UserError:
    """`tiles` are columns and rows. Labels are of whole frames."""
    return UserError(
        f"image.tiles: is {list(tiles)}, but data/ has no points.csv, which says how many people "
        "each tile has; add it (docs/data.md), or set image.tiles to [1, 1]"
    )


def unknown_zone(name: str, known: Sequence[str]) -> UserError:
    if not known:
        return UserError(
            f"zone {name}: the adapter knows no zone. Train one with data.zone, or leave out the "
            "zone."
        )
    return UserError(
        f"zone {name}: the adapter does not know it. Choose one of {', '.join(known)}, or add it "
        "to data/zones.json and train again."
    )


def zone_without_camera(name: str, camera: str | None, known: Sequence[str]) -> UserError:
    for_camera = f"for the camera {camera}" if camera else "for every camera"
    return UserError(
        f"zone {name}: has no outline {for_camera}, only for {', '.join(known)}. Name the camera, "
        'or add an outline for "*" to data/zones.json and train again.'
    )


def zone_outside_frame(name: str, corner: tuple[float, float], size: tuple[int, int]) -> UserError:
    return UserError(
        f"zone {name}: has a corner at {corner[0]:g}, {corner[1]:g}, but the frame has "
        f"{size[0]} x {size[1]} pixels. Give frames of the size for which the zone was drawn."
    )


def joined_tokens(text: str) -> UserError:
    """The tokenizer makes one token of the prompt's end and the answer's start."""
    return UserError(
        f"backbone.name: its tokenizer joins prompt and answer in {text[-24:]!r}; choose a "
        "checkpoint with the architecture of LLaVA-1.5"
    )


def points_without_vision(points: float) -> UserError:
    """No adapter comes before the image tokens that the loss on points reads."""
    return UserError(
        f"train.points: is {points:g}, but adapter.projector and adapter.vision are false, and no "
        "other adapter can learn from points; set one of them to true, or train.points to 0.0"
    )


def uneven_batch(batch_size: int, processes: int) -> UserError:
    """`train.batch_size` is not a multiple of the number of processes."""
    return UserError(
        f"train.batch_size: is {batch_size}, which {processes} processes cannot share evenly; set "
        f"it to a multiple of {processes}"
    )


def too_many_layers(number: int, layers: int) -> UserError:
    """`train.checkpointing` is more than the language model has layers."""
    return UserError(
        f"train.checkpointing: is {number}, but the language model has {layers} layers; set it to "
        f"{layers} or less, to true or to auto"
    )


def no_memory_for_copies() -> UserError:
    """The GPU has no room for the copies of the weights that training keeps."""
    return UserError(
        "train.checkpointing: the copies of the FP8 weights do not fit into GPU memory; set it to "
        "true, or use a larger GPU"
    )


def count_above_max(max_count: int, frame: str, count: int) -> UserError:
    """A label is larger than any answer can be."""
    return UserError(
        f"evaluate.max_count: is {max_count}, but {frame} has {count} people; set it to "
        f"{count} or more"
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


def recomputing(number: int, layers: int) -> str:
    """The line about gradient checkpointing, before the first step."""
    return f"train.checkpointing: {number} of {layers} layers are recomputed in the backward pass\n"


def few_frames(frames: float) -> str:
    """The warning about an error on too few frames, as a sentence; empty if they are enough."""
    if frames >= ENOUGH_FRAMES:
        return ""
    number = f"{frames:.0f} evaluation {'frame is' if frames == 1 else 'frames are'}"
    return (
        f"{number} too few: an MAE on fewer than {ENOUGH_FRAMES} says little about other frames. "
        "Label more frames."
    )


def stopping(signal: str) -> str:
    """The line after SIGTERM or Ctrl-C."""
    return f"{signal}: stopping with a checkpoint after this step; `dvc repro` continues from it\n"


def no_checkpoint_copies(place: str, error: Exception) -> UserError:
    """`train.checkpoint_to` is no place that can be written."""
    return UserError(
        f"train.checkpoint_to: nothing can be written to {place} ({_reason(error)}); correct the "
        "address, install fsspec's package for it, or set it to null"
    )


def copy_not_fetched(place: str, error: Exception) -> UserError:
    """A copy of a checkpoint is there and cannot be read."""
    return UserError(
        f"train.checkpoint_to: the checkpoint in {place} cannot be fetched ({_reason(error)}); run "
        "`dvc repro` again, or set it to null to begin without it"
    )


def checkpoint_fetched(step: int, place: str) -> str:
    """The line about a checkpoint of another machine."""
    return f"train: resumes from the checkpoint of step {step} in {place}\n"


def copy_not_complete(step: int, place: str) -> str:
    """The line about a copy that was cut off."""
    return f"train: the checkpoint of step {step} in {place} is not complete, and not used\n"


def checkpoint_not_copied(step: str, place: str, error: Exception) -> str:
    """The line about a copy that failed."""
    return (
        f"train.checkpoint_to: the checkpoint of step {step} was not copied to {place} "
        f"({_reason(error)}); the training continues\n"
    )


def copies_not_deleted(place: str, error: Exception) -> str:
    """The line about copies that are not needed any more."""
    return f"train.checkpoint_to: {place} was not deleted ({_reason(error)}); delete it\n"


def _reason(error: Exception) -> str:
    return one_line(str(error) or repr(error))


def checkpoint_deleted(checkpoint: Path) -> str:
    """The line about a checkpoint that was cut off."""
    return f"{checkpoint}: not complete, deleted\n"
