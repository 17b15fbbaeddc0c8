"""A backbone that this machine cannot load gives one line with the remedy."""

import shutil
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import huggingface_hub
import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

from llava_dvc.checks import hardware
from llava_dvc.checks.check import raise_first_fault
from llava_dvc.checks.hardware import GIB, hardware_checks, require_hardware, weight_bytes
from llava_dvc.errors import UserError
from llava_dvc.load_errors import explain_load_errors
from llava_dvc.model.backbone import backbone_encoder, load_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Capability = namedtuple("Capability", "major minor")


@pytest.fixture
def backbone_with(cfg):
    return lambda **changes: cfg.backbone.model_copy(update=changes)


def load(backbone):
    """Checks the hardware, then loads, as every stage does."""
    require_hardware(backbone)
    return load_backbone(backbone)


def notes(backbone):
    return [check.note for check in hardware_checks(backbone) if check.note]


# --- the machine ------------------------------------------------------------------------------


@pytest.fixture
def gpu(monkeypatch):
    """Fakes the name, compute capability and memory of a CUDA device."""

    def pretend(name, capability, free, total):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * GIB, total * GIB))

    return pretend


def test_cuda_without_a_gpu(backbone_with, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"backbone\.device: is cuda, but PyTorch finds no CUDA"):
        load(backbone_with(device="cuda"))


def test_bfloat16_on_an_old_gpu(backbone_with, gpu):
    gpu("Tesla T4", Capability(7, 5), 14, 15)
    with pytest.raises(
        UserError, match=r"is bfloat16, but Tesla T4 has .* 7\.5 .* it to float16\.$"
    ):
        raise_first_fault(hardware_checks(backbone_with(device="cuda", dtype="bfloat16")))
    raise_first_fault(hardware_checks(backbone_with(device="cuda", dtype="float16")))
    gpu("A100", Capability(8, 0), 39, 40)
    raise_first_fault(hardware_checks(backbone_with(device="cuda", dtype="bfloat16")))


def test_fp8_on_a_gpu_without_its_units(backbone_with, gpu):
    fp8 = backbone_with(device="cuda", dtype="bfloat16", quantization="fp8")
    gpu("A100", Capability(8, 0), 39, 40)
    with pytest.raises(
        UserError, match=r"is fp8, but A100 has .* 8\.0 and FP8 needs 8\.9\. Set it to nf4\.$"
    ):
        raise_first_fault(hardware_checks(fp8))
    for card in (Capability(8, 9), Capability(9, 0), Capability(10, 0)):
        gpu("L4", card, 22, 24)
        raise_first_fault(hardware_checks(fp8))


def test_what_fp8_cannot_be_combined_with(backbone_with, gpu, monkeypatch):
    gpu("H100", Capability(9, 0), 79, 80)
    half = backbone_with(device="cuda", dtype="float16", quantization="fp8")
    with pytest.raises(UserError, match=r"dtype: is float16, but .* Set it to bfloat16, or"):
        raise_first_fault(hardware_checks(half))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UserError, match=r"is fp8, whose weights FSDP cannot spread\. Set"):
        raise_first_fault(hardware_checks(half.model_copy(update={"dtype": "bfloat16"})))


def test_a_cpu_imitates_fp8(backbone_with):
    assert any(
        "is fp8, which a CPU only imitates" in n for n in notes(backbone_with(quantization="fp8"))
    )


def test_too_little_gpu_memory(backbone_with, gpu):
    gpu("Tesla T4", Capability(7, 5), 1.5, 15)
    with pytest.raises(
        UserError, match=r"needs 2\.0 GiB of GPU memory, but 1\.5 of 15\.0 GiB are free\. Free"
    ):
        raise_first_fault(hardware_checks(backbone_with(device="cuda", unpacked=False)))
    with pytest.raises(UserError, match=r"are free\. Set backbone\.unpacked to false, free some"):
        raise_first_fault(hardware_checks(backbone_with(device="cuda", unpacked=True)))
    with pytest.raises(UserError, match=r"are free\. Set backbone\.quantization to nf4, free so"):
        raise_first_fault(hardware_checks(backbone_with(device="cuda", quantization="none")))


@pytest.mark.parametrize(
    ("quantization", "unpacked", "dtype", "gib"),
    [
        ("nf4", False, "bfloat16", 4.2),
        ("nf4", True, "bfloat16", 16.3),
        ("fp8", False, "bfloat16", 7.1),
        ("none", False, "bfloat16", 13.2),
        ("none", False, "float32", 26.3),
    ],
)
def test_weight_bytes_of_the_7b(backbone_with, quantization, unpacked, dtype, gib):
    llava = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
            num_attention_heads=16, image_size=336, patch_size=14,
        ),
        text_config=LlamaConfig(vocab_size=32064),
    )  # fmt: skip
    backbone = backbone_with(quantization=quantization, unpacked=unpacked, dtype=dtype)
    assert weight_bytes(backbone, llava) / GIB == pytest.approx(gib, abs=0.05)


def test_weight_bytes_of_a_loaded_model(backbone_with):
    for backbone in (
        backbone_with(unpacked=False),
        backbone_with(quantization="none", dtype="bfloat16"),
        backbone_with(quantization="fp8", dtype="bfloat16"),
    ):
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
def test_a_cpu_without_16_bit_instructions_is_only_a_note(
    backbone_with, monkeypatch, tmp_path, dtype, flags, slow
):
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    raise_first_fault(hardware_checks(backbone_with(dtype=dtype)))
    assert [note.split(",")[0] for note in notes(backbone_with(dtype=dtype))] == (
        [f"backbone.dtype: is {dtype}"] if slow else []
    )


# --- a folder ---------------------------------------------------------------------------------


@pytest.fixture
def copied(tiny_folder, tmp_path):
    """A copy of the tiny checkpoint, to remove files from."""
    return shutil.copytree(tiny_folder, tmp_path / "copied")


@pytest.mark.parametrize(
    ("file", "pattern"),
    [("config.json", r"config\.json"), ("model.safetensors", r"\*\.safetensors")],
)
def test_a_folder_without_a_file(backbone_with, copied, file, pattern):
    (copied / file).unlink()
    with pytest.raises(
        UserError, match=rf"copied/{pattern} does not exist\. To restore tiny-llava, run `git check"
    ):
        load(backbone_with(name=str(copied)))


def test_weights_that_are_a_git_lfs_pointer(backbone_with, copied):
    """`git clone` writes pointer files if Git LFS is not installed."""
    (copied / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=r"copied cannot be loaded \(.*eader.*\)\. Choose another"):
        load(backbone_with(name=str(copied)))


def test_a_folder_without_a_tokenizer(backbone_with, cfg, copied):
    (copied / "tokenizer.json").unlink()
    with pytest.raises(
        UserError, match=r"copied cannot be loaded \(.*tokenizer.*\)\. Choose anoth"
    ):
        backbone_encoder(backbone_with(name=str(copied)), cfg.image)


def test_another_kind_of_model(backbone_with, copied):
    LlamaConfig(hidden_size=64, num_attention_heads=2, num_hidden_layers=2).save_pretrained(copied)
    with pytest.raises(
        UserError, match=r"copied has model_type 'llama', but 'llava' is needed\. Choose a"
    ):
        raise_first_fault(hardware_checks(backbone_with(name=str(copied))))


def test_a_full_disk(backbone_with):
    with (
        pytest.raises(
            UserError, match=r"does not fit on the disk\. Free some space, or set HF_HOME"
        ),
        explain_load_errors(backbone_with(name="some/model")),
    ):
        raise OSError("could not write") from OSError(28, "No space left on device")


# --- the Hub ----------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A local Hub that answers every request with one error, and an empty cache."""

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
    address("http://127.0.0.1:9")  # no server listens there
    yield answer
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "line"),
    [
        (403, "GatedRepo", "backbone.name: some/model is gated. Accept its terms at https://hugg"),
        (401, "RepoNotFound", "backbone.name: some/model is not a folder here, and not a reposi"),
        (404, "RevisionNotFound", f"backbone.revision: is {COMMIT}, but some/model has no such "),
        (404, "EntryNotFound", "backbone.name: some/model has model_type None, but 'llava' is "),
        (503, "Down", "backbone.name: some/model is not complete in the local cache, and the do"),
    ],
)
def test_an_error_of_the_hub(backbone_with, hub, status, code, line):
    hub(status, code)
    with pytest.raises(UserError) as caught:
        load(backbone_with(name="some/model", revision=COMMIT))
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hub")
def test_no_network(backbone_with):
    with pytest.raises(
        UserError, match=r"local cache, and the download from the Hub failed\. Check the net"
    ):
        load(backbone_with(name="some/model", revision=COMMIT))


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("cached", [[], ["config.json", "generation_config.json"]])
def test_offline_without_the_weights(backbone_with, tiny_folder, monkeypatch, tmp_path, cached):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for name in cached:
        shutil.copy(tiny_folder / name, snapshot)
    with pytest.raises(
        UserError, match=r"name: some/model is not complete .* Unset HF_HUB_OFFLINE"
    ):
        load(backbone_with(name="some/model", revision=COMMIT))


@pytest.mark.usefixtures("hub")
def test_offline_with_the_weights(backbone_with, tiny_folder, monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "cache" / "models--some--model" / "snapshots" / COMMIT
    shutil.copytree(tiny_folder, snapshot)
    load(backbone_with(name="some/model", revision=COMMIT))


@pytest.mark.parametrize("revision", [None, "main", "v1.5", COMMIT[:12]])
def test_a_hub_model_is_pinned_to_a_commit(backbone_with, revision):
    with pytest.raises(
        UserError,
        match=r"backbone\.revision: is .*, but the Hub id some/model must be pinned to a commit",
    ):
        load(backbone_with(name="some/model", revision=revision))
