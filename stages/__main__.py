"""`python -m stages` is `dvc repro` for `make repro`: the stages say what they do.

Of DVC's own lines it shows warnings and errors.
"""

import logging
import sys

from dvc.exceptions import DvcException
from dvc.repo import Repo


def main() -> int:
    """Runs the changed stages. Returns the exit status."""
    logger = logging.getLogger("dvc")
    logger.setLevel(logging.WARNING)
    try:
        with Repo() as repository:
            if not repository.reproduce():
                sys.stdout.write("Nothing has changed since the last run.\n")
    except DvcException:
        logger.exception("")  # with the message of the error, as in `dvc repro`
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception:
        logger.exception("unexpected error")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
