"""A real MLflow server on PostgreSQL, four results in it, and headless Chromium to look at them."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from tests.conftest import ROOT

# By name: seed, learning rate, error in people. The first two differ much, the last two little.
RESULTS = {
    "brave-cat": (1, 1e-3, 5.0),
    "calm-owl": (2, 5e-4, 2.0),
    "keen-fox": (3, 2e-4, 2.05),
    "wise-elk": (4, 1e-4, 1.95),
}
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage "
    "--window-size=1600,1100 --force-color-profile=srgb"
)
PATIENCE = 120  # seconds; enough for a busy machine


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "ui: MLflow's and TensorBoard's pages in a real browser")


def require_commands(*commands: str, hint: str) -> None:
    """Skips the test when a command is missing; fails it in CI."""
    missing = [command for command in commands if not shutil.which(command)]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{missing} not found: {hint}")
    if missing:
        pytest.skip(f"{missing} not found: {hint}")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def running(command: list[str], health: str, **environment: str) -> Iterator[None]:
    """Runs a server until the block ends. Shows its output when it does not start."""
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_healthy(health):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"{command[0]} did not start: {log.read()[-2000:]}")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait(30)


def is_healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A new database in a temporary folder. PostgreSQL refuses to run as root."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    os.environ["PATH"] += "".join(f":{folder}" for folder in binaries[-1:])
    require_commands("initdb", "pg_ctl", hint="apt-get install postgresql")
    user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    folder = Path(
        tempfile.mkdtemp(prefix="pg-")
    )  # a short path: a socket's path has at most 107 characters
    if user:
        shutil.chown(folder, "postgres")
    options = f"-k {folder} -c listen_addresses= -c fsync=off"

    def call(*command: str) -> None:
        subprocess.run([*user, *command], cwd=folder, stdout=subprocess.DEVNULL, check=True)

    call("initdb", "-D", f"{folder}/data", "-A", "trust", "-U", "postgres", "-N")
    call("pg_ctl", "-D", f"{folder}/data", "-l", f"{folder}/log", "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg2://postgres@/postgres?host={folder}"
    finally:
        call("pg_ctl", "-D", f"{folder}/data", "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server(postgres: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An empty `mlflow server` on PostgreSQL."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"]
    command += ["--port", url.rpartition(":")[2], "--workers", "1"]
    command += ["--backend-store-uri", postgres]
    command += ["--artifacts-destination", str(tmp_path_factory.mktemp("artifacts"))]
    with running(command, f"{url}/health", MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false"):
        yield url


@dataclass(frozen=True)
class Logged:
    """What four processes have logged at the same time, each with its own repository root."""

    server: str
    roots: Path
    """Contains the repository root of each result, by its name."""
    errors: str


@pytest.fixture(scope="session")
def logged(server: str, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    roots = tmp_path_factory.mktemp("roots")
    writers = [start_writer(name, server, roots) for name in RESULTS]
    done = [(writer.communicate()[1], writer.returncode) for writer in writers]
    assert [code for _, code in done] == [0] * 4, done
    return Logged(server, roots, "".join(text for text, _ in done))


def start_writer(name: str, server: str, roots: Path) -> subprocess.Popen[str]:
    (roots / name).mkdir()
    environment = {
        "MLFLOW_TRACKING_URI": server,
        "DVC_ROOT": str(roots / name),
        "DVC_EXP_NAME": name,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "tests.ui.writer", *map(str, RESULTS[name])],
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    require_commands("chromium", "chromedriver", hint="apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.set_page_load_timeout(PATIENCE)
    yield driver
    driver.quit()
