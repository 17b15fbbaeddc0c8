"""Errors of loading a backbone, from a folder or the Hub, as one line with the remedy."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import is_offline_mode
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError

from llava_dvc import config
from llava_dvc.errors import UserError


@contextmanager
def one_line(backbone: config.Backbone) -> Iterator[None]:
    """Turns what loading from a folder or the Hub raises into a UserError with the remedy."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(_line(backbone, error)) from error


def _line(backbone: config.Backbone, error: Exception) -> str:
    """The first cause that is known, as one line."""
    name, causes = backbone.name, list(_causes(error))
    known = (HfHubHTTPError, LocalEntryNotFoundError)
    match next((cause for cause in causes if isinstance(cause, known)), error):
        case GatedRepoError():
            why = f"is gated; accept its terms at https://huggingface.co/{name}, `hf auth login`"
        case RepositoryNotFoundError():
            why = (
                "is no folder here and no repository on the Hub that you may see; "
                "mend the name, or `hf auth login`"
            )
        case RevisionNotFoundError():
            return (
                f"backbone.revision: {name} has no revision {backbone.revision!r}; "
                f"take a commit from https://huggingface.co/{name}/commits/main"
            )
        case _ if is_offline_mode() and not Path(name).is_dir():
            why = (
                "is not whole in the local cache and HF_HUB_OFFLINE forbids to fetch it; "
                "unset HF_HUB_OFFLINE once, or name a folder"
            )
        case LocalEntryNotFoundError():
            why = (
                "is not whole in the local cache and the Hub does not deliver it; "
                "mend the network, or name a folder"
            )
        case _ if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
            why = "does not fit on the disk; make room, or set HF_HOME to a folder on a larger one"
        case _:
            why = f"cannot be loaded ({first_line(error)}); choose another checkpoint"
    return f"backbone.name: {name} {why}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__


def first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" :.")
