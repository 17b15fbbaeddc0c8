"""One line with the remedy for errors of loading a backbone from a folder or the Hub."""

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

from llava_dvc import config
from llava_dvc.errors import UserError

# The HTTP library's base class of all errors, lost connections included. It is not imported by name
# because the library is requests, httpx or httpx2, depending on the version of huggingface_hub.
HTTPError: type[Exception] = next(
    base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError"
)


@contextmanager
def explain_load_errors(backbone: config.Backbone) -> Iterator[None]:
    """Turns an error of loading `backbone` into a UserError with cause and remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers raises many kinds for a broken checkpoint
        raise UserError(_load_error_line(backbone, error)) from error


def first_line(error: Exception) -> str:
    """Returns the first line of the error's text, or the error's type if the text is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(" :.")


def _load_error_line(backbone: config.Backbone, error: Exception) -> str:
    name, hub_errors = backbone.name, (HfHubHTTPError, LocalEntryNotFoundError)
    cause = next((cause for cause in _causes(error) if isinstance(cause, hub_errors)), error)
    if isinstance(cause, RevisionNotFoundError):
        return (
            f"backbone.revision: is {backbone.revision}, but {name} has no such revision. "
            f"Choose a commit from https://huggingface.co/{name}/commits/main."
        )
    reason = _known_reason(name, cause)
    if not reason and any(getattr(one, "errno", None) == errno.ENOSPC for one in _causes(error)):
        reason = "does not fit on the disk. Free some space, or set HF_HOME to a larger disk."
    if not reason:
        reason = f"cannot be loaded ({first_line(error)}). Choose another checkpoint."
    return f"backbone.name: {name} {reason}"


def _known_reason(name: str, cause: BaseException) -> str | None:
    match cause:
        case GatedRepoError():
            return (
                f"is gated. Accept its terms at https://huggingface.co/{name}, "
                "then run `hf auth login`."
            )
        case RepositoryNotFoundError():
            return (
                "is not a folder here, and not a repository on the Hub that you can read. "
                "Correct the name, or run `hf auth login`."
            )
        case _ if is_offline_mode() and not Path(name).is_dir():
            return (
                "is not complete in the local cache, and HF_HUB_OFFLINE forbids downloads. "
                "Unset HF_HUB_OFFLINE once, or name a folder."
            )
        case LocalEntryNotFoundError():
            return (
                "is not complete in the local cache, and the download from the Hub failed. "
                "Check the network, or name a folder."
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields the error, then the errors that it was raised from."""
    while error:
        yield error
        error = error.__cause__
