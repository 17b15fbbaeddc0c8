"""What `make ui` runs: the servers of MLflow and TensorBoard, and the page that leads to them.

If MLFLOW_TRACKING_URI names a server, the page leads to it, and no MLflow is started here.

python -m llava_dvc.commands.ui_servers
"""

import html
import os
import re
import signal
import socket
import subprocess
import sys
import time
import webbrowser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlparse

from llava_dvc.errors import UserError
from llava_dvc.exit_line import exit_with_one_line
from llava_dvc.files import state_root
from llava_dvc.tracking.mlflow_store import HOSTED_STORES, registry_uri, tracking_uri
from llava_dvc.tracking.start_page import MLFLOW, TENSORBOARD, is_server, page_file, write_page

PATIENCE = 120  # seconds until the servers answer
STOP_SECONDS = 10.0
"""For the end of a server. TensorBoard was seen to stay after SIGTERM, once."""
Servers = Mapping[str, subprocess.Popen[bytes]]
"""The processes by the names of the programs."""


def main() -> None:
    """Shows the results until Ctrl-C, SIGTERM, or the end of the terminal."""
    with exit_with_one_line("make ui"):
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(0))
        places = own_servers()
        names = " and ".join(places)
        sys.stderr.write(f"make ui: starting {names}, this takes a moment\n")
        for address in places.values():
            require_free(address)
        write_page()
        try:
            with running_servers(places) as servers:
                wait_until_they_answer(servers, places)
                show_page()
                wait_until_one_ends(servers)
        except KeyboardInterrupt:
            sys.stderr.write("\n")


def own_servers() -> dict[str, str]:
    """The addresses of the servers to start, by the names of the programs.

    Raises UserError when the store has pages that we do not know.
    """
    for name, uri in (
        ("MLFLOW_TRACKING_URI", tracking_uri()),
        ("MLFLOW_REGISTRY_URI", registry_uri()),
    ):
        if uri.partition(":")[0] in HOSTED_STORES:
            raise UserError(
                f"{name}={uri}: make ui does not know the address of its pages. Open them in a "
                "browser. For the curves run: tensorboard --logdir runs"
            )
    places = {"MLflow": MLFLOW, "TensorBoard": TENSORBOARD}
    if is_server(tracking_uri()):
        del places["MLflow"]
    return places


def require_free(address: str) -> None:
    """Raises UserError when another program answers at `address`."""
    if answers(address):
        raise UserError(
            f"{address}: another program answers there, perhaps another `make ui`. Stop it, then "
            "run make ui again."
        )


def log_file() -> Path:
    return page_file().with_name("ui.log")


@contextmanager
def running_servers(places: Mapping[str, str]) -> Iterator[Servers]:
    """Runs servers at these addresses until the block ends. What they print is in a file."""
    programs = {
        "MLflow": ["mlflow", "server", "--workers", "1"],
        "TensorBoard": ["tensorboard.main", "--logdir", "runs"],
    }
    with log_file().open("wb") as log:
        servers = {
            name: subprocess.Popen(
                [sys.executable, "-m", *programs[name], *host_and_port(address)],
                cwd=state_root(), env=os.environ | mlflow_settings(),
                stdout=log, stderr=log, start_new_session=True,
            )
            for name, address in places.items()
        }  # fmt: skip
        try:
            yield servers
        finally:
            for server in servers.values():
                server.terminate()
            for server in servers.values():
                wait_or_kill(server)


def wait_or_kill(server: "subprocess.Popen[bytes]") -> None:
    """Waits for the end of a server that was told to end, then ends it with all it started."""
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def mlflow_settings() -> dict[str, str]:
    """Options of MLflow's server. An address can have a password: no command line shows it."""
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": tracking_uri(),
    }
    if not is_server(registry_uri()):
        settings["MLFLOW_REGISTRY_STORE_URI"] = registry_uri()
    return settings


def host_and_port(address: str) -> list[str]:
    place = urlparse(address)
    return ["--host", str(place.hostname), "--port", str(place.port)]


def wait_until_they_answer(servers: Servers, places: Mapping[str, str]) -> None:
    """Raises UserError when a server ends, or does not answer in time."""
    deadline = time.monotonic() + PATIENCE
    while not all(map(answers, places.values())):
        require_running(servers)
        if time.monotonic() > deadline:
            raise UserError(f"make ui: a server does not answer. Read {log_file()}.")
        time.sleep(0.3)


def wait_until_one_ends(servers: Servers) -> None:
    while True:
        require_running(servers)
        time.sleep(0.5)


def require_running(servers: Servers) -> None:
    for name, server in servers.items():
        if server.poll() is not None:
            raise UserError(
                f"{name}: its server has ended ({server.returncode}). Read {log_file()}."
            )


def show_page() -> None:
    """Prints the links, and opens the page if there is a screen."""
    sys.stdout.write(f"\nStart page: {page_file().as_uri()}\n")
    page = page_file().read_text(encoding="utf-8")
    for address, name in re.findall('<a href="([^"]+)">([^<]+)', page):
        sys.stdout.write(f"{name}: {html.unescape(address)}\n")
    sys.stdout.write("Ctrl-C ends it.\n")
    sys.stdout.flush()
    if sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY"))):
        webbrowser.open(page_file().as_uri())  # without a screen it would start a text browser


def answers(url: str) -> bool:
    place = urlparse(url)
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex((place.hostname or "", place.port or 80)) == 0


if __name__ == "__main__":
    main()
