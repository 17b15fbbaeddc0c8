"""What params.yaml asks for and is not here is one line that says what to do."""

import shutil
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import huggingface_hub
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from llava_dvc.checks import hardware
from llava_dvc.checks.hardware import (
    GIB,
    inspect,
    raise_first_fault,
    require_hardware,
    weight_bytes,
)
from llava_dvc.errors import UserError
from llava_dvc.load_errors import one_line
from llava_dvc.model.backbone import backbone_encoder, load_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Capability = namedtuple("Capability", "major minor")


@pytest.fixture
def asked(cfg):
    return lambda **changes: cfg.backbone.model_copy(update=changes)


def load(backbone):
    """As every stage does: what is here is looked at first."""
    require_hardware(backbone)
    return load_backbone(backbone)


def notes(backbone):
    return [check.note for check in inspect(backbone) if check.note]


# --- the machine ------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """A CUDA device's properties, which cannot be had here: its name, age and memory."""

    def pretend(name, capability, free, total):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * GIB, total * GIB))

    return pretend


def test_cuda_without_a_gpu(asked, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"backbone\.device: is cuda, but PyTorch sees no CUDA"):
        load(asked(device="cuda"))


def test_bfloat16_on_an_old_gpu(asked, gpu):
    gpu("Tesla T4", Capability(7, 5), 14, 15)
    with pytest.raises(UserError, match=r"is bfloat16, but Tesla T4 has .* 7\.5 .* it to float16$"):
        raise_first_fault(inspect(asked(device="cuda", dtype="bfloat16")))
    raise_first_fault(inspect(asked(device="cuda", dtype="float16")))
    gpu("A100", Capability(8, 0), 39, 40)
    raise_first_fault(inspect(asked(device="cuda", dtype="bfloat16")))


def test_too_little_gpu_memory(asked, gpu):
    gpu("Tesla T4", Capability(7, 5), 1.5, 15)
    with pytest.raises(UserError, match=r"needs 2\.0 GiB of GPU memory, 1\.5 of 15\.0 GiB are fr"):
        raise_first_fault(inspect(asked(device="cuda", unpacked=False)))
    with pytest.raises(UserError, match=r"are free; set backbone\.unpacked to false, or free some"):
        raise_first_fault(inspect(asked(device="cuda", unpacked=True)))
    with pytest.raises(UserError, match=r"are free; set backbone\.quantization to nf4, or free so"):
        raise_first_fault(inspect(asked(device="cuda", quantization="none")))


@pytest.mark.parametrize(
    ("quantization", "unpacked", "dtype", "gib"),
    [
        ("nf4", False, "bfloat16", 4.2),
        ("nf4", True, "bfloat16", 16.3),
        ("none", False, "bfloat16", 13.2),
        ("none", False, "float32", 26.3),
    ],
)
def test_what_the_7b_needs(asked, quantization, unpacked, dtype, gib):
    llava = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16, image_size=336, patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=32064),
    )  # fmt: skip
    backbone = asked(quantization=quantization, unpacked=unpacked, dtype=dtype)
    assert weight_bytes(backbone, llava) / GIB == pytest.approx(gib, abs=0.05)


def test_what_a_loaded_model_takes(asked):
    for backbone in (asked(unpacked=False), asked(quantization="none", dtype="bfloat16")):
        model = load(backbone)
        taken = sum(p.numel() * p.element_size() for p in model.parameters())
        assert weight_bytes(backbone, model.config) == pytest.approx(taken, rel=0.01)


@pytest.mark.parametrize(
    ("dtype", "flags", "slow"),
    [
        ("bfloat16", "fma avx2", True),
        ("bfloat16", "avx512_bf16", False),
        ("bfloat16", "amx_bf16", False),
        ("float16", "avx512_bf16", True),
        ("float16", "avx512_fp16", False),
        ("float32", "sse2", False),
    ],
)
def test_a_cpu_without_16_bit_units_is_only_slow(asked, monkeypatch, tmp_path, dtype, flags, slow):
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    raise_first_fault(inspect(asked(dtype=dtype)))
    assert [note.split(",")[0] for note in notes(asked(dtype=dtype))] == (
        [f"backbone.dtype: is {dtype}"] if slow else []
    )


# --- a folder ---------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """A copy of the tiny checkpoint to take something away from."""
    return shutil.copytree(tiny_folder, tmp_path / "copied")


@pytest.mark.parametrize(
    ("file", "named"),
    [("config.json", r"config\.json"), ("model.safetensors", r"\*\.safetensors")],
)
def test_a_folder_without(asked, copied, file, named):
    (copied / file).unlink()
    with pytest.raises(UserError, match=rf"copied/{named} is not there; run `dvc pull back"):
        load(asked(name=str(copied)))


def test_weights_that_are_a_pointer(asked, copied):
    """What `git clone` leaves where Git LFS is not installed."""
    (copied / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"copied cannot be loaded \(.*eader.*\); choose another"):
        load(asked(name=str(copied)))


def test_a_folder_without_a_tokenizer(asked, cfg, copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"copied cannot be loaded \(.*tokenizer.*\); choose anoth"):
        backbone_encoder(asked(name=str(copied)), cfg.image)


def test_another_kind_of_model(asked, copied):
    LlamaConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=2).save_pretrained(copied)
    with pytest.raises(
        UserError, match="copied has model_type 'llama', expected 'llava'; choose a"
    ):
        raise_first_fault(inspect(asked(name=str(copied))))


def test_a_full_disk(asked):
    """Which cannot be had here."""
    with (
        pytest.raises(UserError, match="does not fit on the disk; make room, or set HF_HOME"),
        one_line(asked(name="some/model")),
    ):
        raise OSError("could not write") from OSError(28, "No space left on device")


# --- the Hub ----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A Hub on this machine that answers every request with one error; an empty cache."""

    def answer(status, code):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        servers.append(server)
        address(f"http://127.0.0.1:{server.server_port}")

    def address(url):
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    servers: list[HTTPServer] = []
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    address("http://127.0.0.1:9")  # nobody listens there
    yield answer
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "line"),
    [
        (403, "GatedRepo", "backbone.name: some/model is gated; accept its terms at https://hugg"),
        (401, "RepoNotFound", "backbone.name: some/model is no folder here and no repository on t"),
        (404, "RevisionNotFound", f"backbone.revision: some/model has no revision '{COMMIT}'; ta"),
        (404, "EntryNotFound", "backbone.name: some/model has model_type None, expected 'llava';"),
        (503, "Down", "backbone.name: some/model is not whole in the local cache and the Hub doe"),
    ],
)
def test_the_hub_says_no(asked, hub, status, code, line):
    hub(status, code)
    with pytest.raises(UserError) as caught:
        load(asked(name="some/model", revision=COMMIT))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_no_network(asked):
    with pytest.raises(UserError, match="local cache and the Hub does not deliver it; mend"):
        load(asked(name="some/model", revision=COMMIT))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("cached", [[], ["config.json", "generation_config.json"]])
def test_offline_without_the_weights(asked, tiny_folder, monkeypatch, tmp_path, cached):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in cached:
        shutil.copy(tiny_folder / name, snapshot)
    with pytest.raises(UserError, match=r"name: some/model is not whole .* unset HF_HUB_OFFLINE"):
        load(asked(name="some/model", revision=COMMIT))


@pytest.mark.usefixtures("hub")
def test_offline_with_the_weights(asked, tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    shutil.copytree(tiny_folder, snapshot)
    load(asked(name="some/model", revision=COMMIT))


@pytest.mark.parametrize("revision", [None, "main", "v1.5", COMMIT[:12]])
def test_a_hub_model_is_pinned_to_a_commit(asked, revision):
    with pytest.raises(UserError, match=r"backbone.revision: is .*; pin some/model to a commit"):
        load(asked(name="some/model", revision=revision))
