"""What the service says about its adapter."""

import json
import shutil

import pytest

from llava_dvc.errors import UserError
from llava_dvc.files import write_json
from llava_dvc.recipe import MANIFEST, Recipe, manifest_entry
from llava_dvc.serving.page.served_model import EVALUATION, describe_model
from tests.serving.conftest import MEASURED


def test_a_published_adapter_says_how_well_it_counts(service, cfg):
    status, answer = service.ask("GET", "/model")
    assert (status, json.loads(answer)) == (
        200,
        {
            "adapter": "published",
            "backbone": cfg.backbone.name,
            "measured": MEASURED,
            "keeps_corrections": True,
            "zone": None,
            "zones": {},
        },
    )


def test_the_zones_and_their_cameras_are_named(zoned_folder):
    found = describe_model(zoned_folder, zoned_folder, Recipe.read(zoned_folder))
    assert (found.zone, found.zones) == ("tills", {"tills": ["*"], "door": ["hall"]})


def test_an_adapter_without_evaluation_says_nothing_of_it(adapter_folder):
    found = describe_model("owner/name@v1", adapter_folder, Recipe.read(adapter_folder))
    assert (found.adapter, found.measured) == ("owner/name@v1", None)


@pytest.fixture
def copied(published_adapter, tmp_path):
    return shutil.copytree(published_adapter, tmp_path / "published")


def test_a_changed_evaluation_is_refused(copied):
    write_json(copied / EVALUATION, MEASURED | {"mae": 0.1})
    with pytest.raises(UserError, match=r"evaluate\.json: is changed since manifest\.json was"):
        describe_model(copied, copied, Recipe.read(copied))


@pytest.mark.parametrize("metrics", [{"mae": 2.0}, None], ids=["older", "not downloaded"])
def test_an_evaluation_without_an_interval_is_left_out(copied, metrics):
    manifest = json.loads((copied / MANIFEST).read_text())
    if metrics is None:
        (copied / EVALUATION).unlink()
    else:
        write_json(copied / EVALUATION, metrics)
        manifest["files"][-1] = manifest_entry(copied, EVALUATION)
        write_json(copied / MANIFEST, manifest)
    assert describe_model(copied, copied, Recipe.read(copied)).measured is None
