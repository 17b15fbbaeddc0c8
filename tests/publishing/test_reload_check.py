"""What leaves answers as it was evaluated: in a process of its own, with plain transformers and
PEFT, and after a download.
"""

import ast
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub import ModelCard
from peft import PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file

from llava_dvc.config import Config
from llava_dvc.dataset import FEATURES
from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.model.adapter import peft_config, save_adapter
from llava_dvc.model.backbone import backbone_encoder, load_backbone
from llava_dvc.model.counting import CountPredictor
from llava_dvc.publishing import hub, push
from llava_dvc.publishing.card import HEADLINE
from llava_dvc.publishing.folder import verify_manifest
from llava_dvc.publishing.reload_check import compare_answers, read_predictions
from llava_dvc.recipe import WEIGHTS
from llava_dvc.training.count_trainer import adapter_weights
from stages import evaluate, publish
from tests.conftest import ROOT, conversation
from tests.publishing import hub_server
from tests.publishing.published import BASELINE
from tests.recipes import recipe

pytestmark = pytest.mark.slow
QUESTION = "How many people?"
FRAMES = 12  # `make repro` publishes more than are compared
FIRST = 60  # of the sample's frames


@dataclass
class Work:
    """An evaluated adapter in a folder of its own."""

    folder: Path
    cfg: Config

    def __getattr__(self, name: str) -> Path:
        return self.folder / PATHS[name]

    def publish(self, **settings: object) -> Path:
        asked = self.cfg.publish.model_copy(update=settings)
        cfg = self.cfg.model_copy(update={"publish": asked})
        inputs = [self.prepared, self.adapter, self.baseline, self.answers]
        publish.main(cfg, *inputs, self.csv, self.metrics, self.plots, self.published)
        return self.published

    def copy(self, folder: Path) -> "Work":
        shutil.copytree(self.folder, folder)
        return Work(folder, self.cfg)


PATHS = {
    "prepared": "prepared",
    "adapter": "models/adapter",
    "baseline": "baseline.json",
    "answers": "baseline.csv",
    "csv": "eval.csv",
    "metrics": "evaluate.json",
    "plots": "plots",
    "published": "published",
}


def from_sample(tracked: Path, folder: Path) -> Path:
    """What a .dvc file names, taken from the remote that is in git, without DVC."""
    (out,) = yaml.safe_load(tracked.read_text())["outs"]
    for file in json.loads(stored(out["md5"]).read_text()):
        path = folder / file["relpath"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stored(file["md5"]), path)
    return folder


def stored(md5: str) -> Path:
    return ROOT / "sample" / "files" / "md5" / md5[:2] / md5[2:]


def rows(data: Path, first: int, count: int) -> Dataset:
    labels = read_labels(data)[first : first + count]
    return Dataset.from_list(
        [
            {
                "frame": name,
                "image": {"path": name, "bytes": (data / "frames" / name).read_bytes()},
                "count": label,
                "camera": None,
                "points": None,
                "messages": conversation(label, QUESTION),
            }
            for name, label in labels
        ],
        features=FEATURES,
    )


def read_labels(data: Path) -> list[tuple[str, int]]:
    with (data / "labels.csv").open(newline="") as file:
        return [(f"seq_{int(r['id']):06d}.jpg", int(r["count"])) for r in csv.DictReader(file)]


def make_adapter(cfg: Config, folder: Path) -> None:
    """Never trained, but the model counts otherwise with it than without."""
    model = load_backbone(cfg.backbone)
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    torch.manual_seed(0)
    tuned = get_peft_model(model, peft_config(cfg.adapter, model))
    for name, weights in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weights, std=0.01)
    made = recipe(cfg, question=QUESTION, max_count=cfg.evaluate.max_count)
    save_adapter(tuned, adapter_weights(tuned), encoder, made, folder)


@pytest.fixture(scope="session")
def real(cfg: Config, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The tiny preset on tiny-llava itself, which counts untuned: its replies are numbers."""
    folder = from_sample(ROOT / "backbones/tiny-llava.dvc", tmp_path_factory.mktemp("b") / "tiny")
    return cfg.model_copy(
        update={"backbone": cfg.backbone.model_copy(update={"name": str(folder)})}
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return from_sample(ROOT / "data.dvc", tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def evaluated(real: Config, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Work:
    work = Work(tmp_path_factory.mktemp("work"), real)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DVC_ROOT", str(work.folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        parts = {"train": (0, 4), "val": (4, 6), "eval": (FIRST, FRAMES)}
        split = {name: rows(data, *part) for name, part in parts.items()}
        DatasetDict(split).save_to_disk(work.prepared)
        sizes = {name: {"frames": len(part), "mean": 20.0} for name, part in split.items()}
        write_json(work.prepared / "report.json", {"data_md5": "d.dir", "splits": sizes})
        write_json(work.baseline, {name: {**row, "mae": 90.0} for name, row in BASELINE.items()})
        held_out = split["eval"].select_columns(["frame", "count"]).to_pandas()
        answers = {name: held_out["count"] + 90.0 for name in BASELINE}
        held_out.assign(**answers).to_csv(work.answers, index=False)
        make_adapter(real, work.adapter)
        inputs = [work.prepared, work.adapter, work.baseline, work.answers]
        evaluate.main(real, *inputs, work.csv, work.metrics, work.plots)
        work.publish(merge=True)
    return work


@pytest.fixture
def work(evaluated, tmp_path, monkeypatch) -> Work:
    monkeypatch.setenv("DVC_ROOT", str(evaluated.folder))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return evaluated.copy(tmp_path / "work")


@pytest.fixture(scope="session")
def replies(evaluated) -> list[str]:
    """Of the evaluation, frame by frame."""
    return [row["reply"] for row in read_predictions(evaluated.csv).values()]


@pytest.fixture(scope="session")
def pictures(data: Path) -> list[Path]:
    return [data / "frames" / name for name, _ in read_labels(data)[FIRST : FIRST + FRAMES]]


def python(*arguments: str | Path, **environment: str) -> list[str]:
    """Lines that a process without our package in sight writes."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1"} | environment,
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


def plain_use(folder: Path, work: Work, pictures: list[Path]) -> list[str]:
    script = Path(__file__).with_name("plain_use.py")
    lines = python(script, folder, work.cfg.backbone.name, QUESTION, *pictures)
    return [ast.literal_eval(line) for line in lines]


def card_script(folder: Path, picture: Path) -> str:
    """What the card's own lines write for a picture."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)[1]
    repo = ModelCard.load(folder / "README.md").data.to_dict()["model-index"][0]["name"]
    code = re.sub(rf'"[\w.-]+/{repo}"', repr(str(folder)), code)
    return "\n".join(python("-c", code.replace('"frame.jpg"', repr(str(picture)))))


def test_the_adapter_counts_and_does_so_otherwise_than_its_backbone(evaluated, replies, pictures):
    assert all(reply.isdigit() for reply in replies)
    assert len(set(replies)) > 4
    images = [Image.open(picture) for picture in pictures[:8]]
    bare = load_backbone(evaluated.cfg.backbone)
    assert asked(bare, evaluated.cfg, images) != replies[:8]


def test_the_cards_own_lines_reply_as_evaluated(evaluated, replies, pictures):
    assert card_script(evaluated.published, pictures[3]) == replies[3]


def test_plain_transformers_and_peft_reply_as_evaluated_after_a_download(
    work, replies, pictures, monkeypatch, tmp_path
):
    monkeypatch.setenv("HF_TOKEN", "hf_token")
    monkeypatch.setattr(hub.constants, "HF_HUB_DISABLE_XET", True)
    with hub_server.running() as server:
        server.tokens = {"hf_token": {"someone"}}
        monkeypatch.setattr(hub.constants, "ENDPOINT", server.url)
        push.push_folder(work.published, work.cfg.publish.model_copy(update={"repo": "someone/x"}))
        code = "import huggingface_hub as h, sys; h.snapshot_download('someone/x', "
        code += f"local_dir={str(tmp_path / 'got')!r})"
        away = {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        python("-c", code, **away)
        assert set(server.repos) == {"someone/x", "someone/x-merged"}
        assert "model.safetensors" in server.repos["someone/x-merged"].commits[-1].files
        assert not [n for n in server.repos["someone/x"].commits[-1].files if "merged" in n]
    assert plain_use(tmp_path / "got", work, pictures) == replies


def test_publishing_again_gives_the_same_bytes(work):
    before = {p: p.read_bytes() for p in work.published.rglob("*") if p.is_file()}
    work.publish(merge=True)
    assert {p: p.read_bytes() for p in work.published.rglob("*") if p.is_file()} == before


def test_a_frame_that_comes_out_otherwise_is_named(evaluated):
    rows = list(read_predictions(evaluated.csv).values())
    answers = [{n: row[n] for n in ("frame", "predicted", "reply")} for row in rows]
    compare_answers(answers, evaluated.csv)
    answers[-1]["predicted"] = "999"
    line = r"1 times in 12 frames \(seq_000072\.jpg: predicted '999', .*eval\.csv has '\d+'\)"
    with pytest.raises(UserError, match=line):
        compare_answers(answers, evaluated.csv)


def other_template(work: Work) -> None:
    path = work.adapter / "chat_template.jinja"
    path.write_text(path.read_text().replace(" USER: ", " People: "))


def no_processor(work: Work) -> None:
    (work.adapter / "processor_config.json").unlink()


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (other_template, r"chat_template.jinja: is not the chat template of this version"),
        (no_processor, r"published: does not load in a new process: "),
    ],
)
def test_what_answers_otherwise_is_not_published(work, fault, line):
    shutil.rmtree(work.published)
    fault(work)
    with pytest.raises(UserError, match=line) as caught:
        work.publish()
    assert "\n" not in str(caught.value)
    assert not work.published.exists()


def test_the_merged_model_is_one_of_its_own(evaluated, pictures):
    folder, merged = evaluated.published, evaluated.published / "merged"
    assert verify_manifest(folder)["files"]
    assert verify_manifest(merged)["files"]
    assert not [file for file in verify_manifest(folder)["files"] if "merged" in file["path"]]
    weights = load_file(merged / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {torch.float32}  # backbone.dtype; no 4-bit
    assert not [name for name in weights if "lora" in name or "absmax" in name]
    assert not (merged / WEIGHTS).exists()
    own, adapters = (
        json.loads((f / "metrics/evaluate.json").read_text()) for f in (merged, folder)
    )
    assert own["frames"] == adapters["frames"] == FRAMES
    assert own["nll"] != adapters["nll"]
    card = ModelCard.load(merged / "README.md")
    figures = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert figures == {name: own[name] for name in HEADLINE}
    assert "Against ridge features" not in card.text  # those are the answers of the adapter
    assert "Against ridge features" in (folder / "README.md").read_text()
    assert (card.data.library_name, card.data.base_model_relation) == ("transformers", "finetune")
    assert f"| this model | {own['mae']:.2f} |" in card.text
    assert "peft" not in card_script_imports(merged)
    assert card_script(merged, pictures[0]) == merged_reply(evaluated, pictures[0])


def card_script_imports(folder: Path) -> str:
    return re.search(r"```python\n(.*?)\n\n", (folder / "README.md").read_text(), re.S)[1]


def asked(model: Any, cfg: Config, images: list[Image.Image]) -> list[str]:
    encoder = backbone_encoder(cfg.backbone, cfg.image)
    question = conversation(0, QUESTION)[:1]
    return CountPredictor(model, encoder, question, 60).predict(images, 4).replies


def merged_reply(work: Work, picture: Path) -> str:
    """What the unquantised backbone says with the adapter on it, unmerged."""
    whole = work.cfg.backbone.model_copy(update={"quantization": "none", "unpacked": False})
    model = PeftModel.from_pretrained(load_backbone(whole), work.adapter)
    return asked(model, work.cfg, [Image.open(picture)])[0]
