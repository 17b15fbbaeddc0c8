"""Faults of the MLflow store itself: a missing driver, and a file that is not a whole database."""

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from llava_dvc.errors import UserError

MISSING_DRIVER = re.compile(r"No module named '(?P<module>\w+)'")
DRIVER_PACKAGES = {
    "psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient",
}  # fmt: skip
DAMAGED = re.compile(
    r"file is not a database|is malformed|no such (table|column)|unexpected state"
    r"|unable to open database file"
)


def store_fault(text: str) -> str | None:
    """What a message of SQLite, SQLAlchemy or MLflow says about the store, and the remedy; None if
    it says nothing of it. A damaged store is only known as such if its place is our own.
    """
    if driver := MISSING_DRIVER.search(text):
        package = DRIVER_PACKAGES.get(driver["module"], driver["module"])
        return f"needs a driver that is not installed; run `uv pip install '{package}'`"
    if "database is locked" in text:
        return "is locked by another process; wait for it, continue it with `fg`, or end it"
    is_ours = not os.environ.get("MLFLOW_TRACKING_URI")
    if is_ours and (damaged := DAMAGED.search(text)):
        return (
            f"is not a whole MLflow store ({damaged[0]}); restore it from a copy, or move it away: "
            "`dvc repro` then makes a new one"
        )
    return None


def require_database(path: Path) -> None:
    """Raises UserError when SQLite cannot read a store: MLflow would try it again for minutes."""
    with faults_explained(path), closing(sqlite3.connect(path)) as connection:
        connection.execute("SELECT count(*) FROM experiments")


def require_sqlite(path: Path) -> None:
    """Raises UserError when a file of MLFLOW_TRACKING_URI is not a database: MLflow would try it
    again for minutes. A file that does not exist yet, or is empty, is accepted.
    """
    if path.is_file() and path.stat().st_size:
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise UserError(
                    f"{path}: is not an SQLite database. Move the file away, or correct "
                    "MLFLOW_TRACKING_URI."
                )


@contextmanager
def faults_explained(path: Path) -> Iterator[None]:
    """Turns an error of SQLite about the store in `path` into a UserError."""
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(f"{path}: {store_fault(str(error)) or error}") from None
