"""`llava-dvc predict --ray` on a cluster of two nodes."""

import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from llava_dvc import cli
from llava_dvc.archive import block_counter
from llava_dvc.archive.block_counter import ArchiveModel, checked_folder
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.recipe import (
    MANIFEST,
    READ_FILES,
    WEIGHTS,
    Recipe,
    adapter_sha256,
    backbone_digest,
    manifest_entry,
)
from tests.archive.conftest import write_day


def test_an_error_of_a_worker_is_one_line(
    cluster, wide_adapter, tmp_path, monkeypatch, left_folders
):
    """Of a backbone that is not the one in the manifest: only the nodes read it."""
    write_manifest(shutil.copytree(wide_adapter, tmp_path / "published"), "another")
    write_day(tmp_path / "archive", 1, 0)
    monkeypatch.chdir(tmp_path)
    command = ["llava-dvc", "predict", "archive", "--adapter", "published"]
    monkeypatch.setattr(sys, "argv", [*command, "--ray", cluster.address, "--out", "out"])
    with pytest.raises(
        SystemExit, match=r"^error: .*manifest.json: inputs_md5.backbone: is not the"
    ):
        cli.main()
    assert left_folders() == []


def write_manifest(folder, backbone):
    names = [name for name in READ_FILES if (folder / name).is_file()]
    manifest = {
        "adapter_sha256": adapter_sha256(folder),
        "inputs_md5": {"backbone": backbone},
        "evaluate": {},
        "files": [manifest_entry(folder, name) for name in names],
    }
    write_json(folder / MANIFEST, manifest)


def test_a_node_checks_the_adapter_once(wide_adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(block_counter.tempfile, "tempdir", str(tmp_path))
    folder, checks = shutil.copytree(wide_adapter, tmp_path / "published"), []
    backbone = block_counter.backbone_of_manifest
    monkeypatch.setattr(
        block_counter, "backbone_of_manifest", lambda *of: checks.append(of) or backbone(*of)
    )
    write_manifest(folder, backbone_digest(Recipe.read(folder).backbone))
    model = ArchiveModel(folder, tmp_path, "job")
    links = checked_folder(model)
    assert checked_folder(model) == links
    assert len(checks) == 1
    assert {path.name for path in links.iterdir()} == {
        path.name for path in folder.iterdir() if path.name != MANIFEST
    }
    (folder / WEIGHTS).write_bytes(b"changed")
    with pytest.raises(UserError, match=r"adapter_model.safetensors: is changed since"):
        checked_folder(replace(model, job="another"))


@pytest.fixture
def run(monkeypatch, wide_adapter, tmp_path):
    write_day(tmp_path / "archive", 1, 0)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        command = ["llava-dvc", "predict", "archive", "--adapter", str(wide_adapter)]
        monkeypatch.setattr(sys, "argv", [*command, *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return str(stopped.value)

    return call


def test_a_wrong_address_is_one_line(run):
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed = f"127.0.0.1:{free.getsockname()[1]}"
    cases = [(closed, "Connection refused"), ("nonsense", "invalid literal")]
    page = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    threading.Thread(target=page.serve_forever, daemon=True).start()
    cases.append((f"127.0.0.1:{page.server_port}", "something else listens there"))
    for address, reason in cases:
        line = run("--ray", address, "--out", "out")
        assert line.startswith(f"error: --ray: {address}: no Ray cluster there (")
        assert reason in line
        assert "\n" not in line
    page.shutdown()
    page.server_close()


def test_options_that_do_not_fit_are_one_line(run):
    assert run("--out", "out").startswith("error: --out: needs --ray too.")
    assert run("--ray", "auto").startswith("error: --ray: needs --out too.")
    both = ("--ray", "auto", "--out", "out")
    assert run(*both, "--smooth").startswith("error: --smooth: is not possible with --ray.")
    assert run(*both, "--every", "0").startswith("error: --every: is 0. Set it to seconds above 0.")


def test_without_the_extra_it_is_one_line(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    for name in ("cluster", "job"):
        monkeypatch.delitem(sys.modules, f"llava_dvc.archive.{name}", raising=False)
    line = run("--ray", "auto", "--out", "out")
    assert line == "error: --ray: Ray is not installed. Run `pip install 'llava-dvc[ray]'`."


def test_predict_alone_does_not_import_ray(wide_adapter, tmp_path):
    write_day(tmp_path / "archive", 1, 0)
    code = "import sys, atexit; from llava_dvc import cli\n"
    code += "atexit.register(lambda: print('ray' in sys.modules)); cli.main()"
    command = [sys.executable, "-c", code, "predict", "archive", "--adapter", wide_adapter]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "False"), done.stderr
