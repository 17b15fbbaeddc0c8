"""A Space around a published adapter. Gradio is not installed here: a stand-in notes the page."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi, SpaceCard, constants

from llava_dvc.errors import UserError
from llava_dvc.publishing.space import GRADIO, write_space
from llava_dvc.publishing.training_frames import Example
from llava_dvc.serving.counter import Counter
from tests.conftest import frame
from tests.publishing import hub_server
from tests.publishing.published import FRAMES, publish, write_adapter
from tests.recipes import recipe

LOCAL = "backbones/tiny"


@pytest.fixture(scope="module")
def work(cfg, tiny_folder, adapter_folder, tmp_path_factory):
    """A folder with a published adapter that counts, its backbone, and its Space."""
    folder = tmp_path_factory.mktemp("space")
    shutil.copytree(tiny_folder, folder / LOCAL)
    shutil.copytree(adapter_folder, folder / "adapter")
    settings = folder / "adapter" / "adapter_config.json"
    settings.write_text(settings.read_text().replace(str(tiny_folder), LOCAL))
    FRAMES.to_csv(folder / "eval.csv")
    (folder / "plots").mkdir()
    frame(3, (320, 240)).save(folder / "a.png")
    example = Example("a.png", (folder / "a.png").read_bytes(), 3, 4, 2, 6)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        own = cfg.model_copy(update={"backbone": cfg.backbone.model_copy(update={"name": LOCAL})})
        recipe(own, temperature=1.5).write(folder / "adapter")
        publish(own, folder, examples=(example,))
        write_space(Path("published"), Path("space"))
    return folder


class GradioStandIn(SimpleNamespace):
    """Stands in for the module gradio: it notes how the page is made."""

    Error = ValueError

    def __getattr__(self, name):
        return lambda *values, **named: SimpleNamespace(name=name, values=values, **named)


@pytest.fixture
def app(work, monkeypatch):
    """The module app.py, run in its folder, with the stand-in for Gradio."""
    monkeypatch.setitem(sys.modules, "gradio", GradioStandIn())
    monkeypatch.chdir(work / "space")
    spec = importlib.util.spec_from_file_location("space_app", "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_answers_as_counter_does(app, work):
    image = frame(5, (320, 240))
    (found,) = Counter.from_pretrained(work / "space" / "adapter").count([image])
    text, likely = app.count_people(image)
    assert text == f"# {found.count} people\n80 % interval: {found.low} to {found.high}"
    assert likely == {str(count): share for count, share in found.most_likely(5)}
    assert app.page.values[0] is app.count_people
    assert app.page.examples == ["examples/a.png"]
    assert "are off by 1.00 people on average, on 6 frames" in app.page.description
    with pytest.raises(ValueError, match="Choose a frame first"):
        app.count_people(None)


def test_the_hub_can_read_the_card(work):
    card = SpaceCard.load(work / "space" / "README.md")
    assert (card.data.sdk, card.data.sdk_version, card.data.app_file) == (
        "gradio",
        GRADIO,
        "app.py",
    )
    assert card.data.suggested_hardware == "cpu-basic"
    assert "`backbones/tiny/` is the backbone" in card.text


def test_the_requirements_are_pinned(work):
    lines = (work / "space" / "requirements.txt").read_text().splitlines()[1:]
    assert len(lines) > 10
    assert all(len(line.split("==")) == 2 and "+" not in line for line in lines)


def test_only_what_counting_reads_is_in_the_space(work):
    space = work / "space"
    assert {path.name for path in space.iterdir()} == {
        "README.md", "adapter", "app.py", "backbones", "examples", "llava_dvc", "requirements.txt",
    }  # fmt: skip
    assert not list(space.rglob("__pycache__"))
    assert not (space / "adapter" / "plots").exists()
    assert (space / "adapter" / "manifest.json").is_file()


def test_it_is_pushed_to_the_hub(work, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with hub_server.running() as server:
        server.tokens = {"hf_token": {"someone"}}
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        api = HfApi(server.url, "hf_token")
        api.create_repo("someone/count", repo_type="space", space_sdk="gradio")
        api.upload_folder(folder_path=work / "space", repo_id="someone/count", repo_type="space")
        uploaded = dict(server.repos["spaces/someone/count"].commits[-1].files)
    del uploaded[".gitattributes"]
    files = [path for path in (work / "space").rglob("*") if path.is_file()]
    assert uploaded == {p.relative_to(work / "space").as_posix(): p.read_bytes() for p in files}


@pytest.mark.parametrize(
    ("published", "folder", "line"),
    [
        ("published", "space", "space: exists and is not empty. Name a new folder."),
        ("elsewhere", "new", "elsewhere/manifest.json: not found; run `dvc repro`"),
    ],
)
def test_a_mistake_is_one_line(work, monkeypatch, published, folder, line):
    monkeypatch.chdir(work)
    with pytest.raises(UserError) as caught:
        write_space(Path(published), Path(folder))
    assert str(caught.value) == line


def test_the_backbone_must_be_below_the_folder(work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^backbones/tiny: not found\. Run from the folder that"):
        write_space(work / "published", Path("space"))
    assert os.listdir() == []


def test_a_backbone_elsewhere_is_refused(cfg, tmp_path):
    write_adapter(tmp_path / "adapter", cfg)  # its backbone is an absolute path
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "plots").mkdir()
    FRAMES.to_csv(tmp_path / "eval.csv")
    with pytest.raises(UserError, match=r"backbone\.name: is /.*, and a Space can hold only"):
        write_space(publish(cfg, tmp_path), tmp_path / "space")
