"""A store that is damaged, or that needs a driver: one line, at once."""

import re
import sqlite3
from contextlib import closing

import pytest

from llava_dvc.errors import UserError
from llava_dvc.tracking.mlflow_store import connect, relocate, unreachable
from llava_dvc.tracking.registry import champion_version


def cut(path):
    path.write_bytes(path.read_bytes()[:100_000])


def without_table(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE experiments")


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGE = {
    "file is not a database": lambda path: path.write_bytes(b"garbage" * 1000),
    "is malformed": cut,
    "no such table": without_table,
    "unable to open database file": as_folder,
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_store_is_one_line(store, tmp_path, reason):
    DAMAGE[reason](tmp_path / "mlflow.db")
    file = re.escape(f"{tmp_path}/mlflow.db")
    line = rf"^{file}: is not a whole MLflow store \({reason}\); restore"
    for command in (connect, champion_version):
        with pytest.raises(UserError, match=line):
            command()
    if reason != "unable to open database file":  # a folder is not found
        with pytest.raises(UserError, match=line):
            relocate()


def test_a_store_that_lacks_a_table_is_not_relocated(store, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE experiments SET artifact_location = 'file:///elsewhere'")
        connection.execute("DROP TABLE model_versions")
    with pytest.raises(UserError, match=r"is not a whole MLflow store \(no such table\)"):
        relocate()


def test_a_missing_driver_is_one_line(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mssql+pyodbc://me@127.0.0.1:1/x")
    line = (
        r"^mssql\+pyodbc://.*: needs a driver that is not installed; run `uv pip install 'pyodbc'`"
    )
    with pytest.raises(UserError, match=line):
        champion_version()


@pytest.mark.parametrize(
    ("module", "package"),
    [("psycopg2", "psycopg2-binary"), ("psycopg", "psycopg[binary]"), ("MySQLdb", "mysqlclient")],
)
def test_the_package_of_a_driver_is_named(module, package):
    line = str(unreachable(ModuleNotFoundError(f"No module named '{module}'")))
    assert line.endswith(f"needs a driver that is not installed; run `uv pip install '{package}'`")
