import re
import shutil

import numpy as np
import pandas as pd
import pytest

from llava_dvc.errors import UserError
from llava_dvc.recipe import Recipe, adapter_sha256
from llava_dvc.tracking import registry
from tests.results import log_result, predictions


def roles(client):
    """The sha256 of the adapter that has each alias."""
    aliases = client.get_registered_model(registry.MODEL).aliases
    return {
        alias: client.get_model_version(registry.MODEL, version).tags["adapter"]
        for alias, version in aliases.items()
    }


def test_the_first_adapter_is_champion_and_challenger(store, cfg, tmp_path, capfd):
    _, first = log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    assert roles(store()) == {"challenger": first, "champion": first}
    assert "version 1 is champion: the first adapter" in capfd.readouterr().out


def test_of_several_first_adapters_the_oldest_is_the_champion(store, cfg, tmp_path):
    """Two machines register at once: the second finds the first without an alias."""
    _, first = log_result(cfg, tmp_path, 1, predictions(1, 1.02))
    store().delete_registered_model_alias(registry.MODEL, registry.CHAMPION)
    _, second = log_result(cfg, tmp_path, 2, predictions(2, 1.0))
    assert roles(store()) == {"challenger": second, "champion": first}


def test_a_new_champion_from_another_machine_is_compared_too(store, cfg, tmp_path, monkeypatch):
    """Another machine changes the champion while ours is compared with the old one."""
    log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    _, best = log_result(cfg, tmp_path, 2, predictions(2, 0.1))
    alias = (registry.MODEL, registry.CHAMPION)
    store().set_registered_model_alias(*alias, "1")
    compare = registry.compare_with_champion

    def compare_slowly(client, *others):
        result = compare(client, *others)
        client.set_registered_model_alias(*alias, "2")
        return result

    monkeypatch.setattr(registry, "compare_with_champion", compare_slowly)
    _, third = log_result(cfg, tmp_path, 3, predictions(3, 1.0))
    assert roles(store()) == {"challenger": third, "champion": best}


def test_a_better_adapter_is_the_new_champion(store, cfg, tmp_path, capfd):
    log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    _, better = log_result(cfg, tmp_path, 2, predictions(2, 1.0))
    assert roles(store()) == {"challenger": better, "champion": better}
    version = store().get_model_version(registry.MODEL, "2")
    number = r"\d\.\d\d"
    words = rf"errs by {number} people less \(95 %: {number} less to {number} less\)"
    words += "; version 1 is no longer"
    assert re.search(f": {words} champion$", version.description)


@pytest.mark.parametrize(
    "noise", [1.95, 5.0]
)  # better by 0.12 people, which is not significant; worse
def test_an_adapter_that_is_not_better_is_only_the_challenger(store, cfg, tmp_path, noise):
    _, first = log_result(cfg, tmp_path, 1, predictions(3, 2.05))
    _, second = log_result(cfg, tmp_path, 2, predictions(4, noise))
    assert roles(store()) == {"challenger": second, "champion": first}
    version = store().get_model_version(registry.MODEL, "2")
    words = "errs by 0.12 people less" if noise == 1.95 else "people more (95 %: "
    assert words in version.description
    assert ("): not clear on 60 frames; version 1" in version.description) == (noise == 1.95)
    assert version.description.endswith("; version 1 stays champion")


def test_other_data_are_not_compared(store, cfg, tmp_path):
    _, first = log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    _, second = log_result(cfg, tmp_path, 2, predictions(2, 0.1), data="other.dir")
    assert roles(store()) == {"challenger": second, "champion": first}
    description = store().get_model_version(registry.MODEL, "2").description
    assert description.endswith("was evaluated on other data, which cannot be compared")


def test_other_frames_are_not_compared(store, cfg, tmp_path):
    _, first = log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    _, second = log_result(cfg, tmp_path, 2, predictions(2, 0.1, frames=59))
    assert roles(store()) == {"challenger": second, "champion": first}
    description = store().get_model_version(registry.MODEL, "2").description
    assert description.endswith("was evaluated on other frames, which cannot be compared")


def test_an_adapter_with_several_evaluations_is_one_version(store, cfg, tmp_path):
    other = cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update={"decode": "mean"})})
    for settings in (cfg, other, cfg):
        log_result(settings, tmp_path, 1, predictions(1, 2.0))
    (version,) = store().search_model_versions(f"name = '{registry.MODEL}'")
    assert version.tags["decode"] == "median"


def test_the_difference_is_paired():
    """Both have large errors on the same frames; the paired difference is exact."""
    count = np.tile([10, 40], 200)
    old = pd.DataFrame({"frame": range(400), "count": count, "predicted": count + count // 2})
    new = old.assign(predicted=old["predicted"] - 1)
    assert registry.mae_difference(new, old) == (-1.0, -1.0, -1.0)
    assert registry.mae_difference(new, old.assign(count=count + 1)) is None


def test_the_champion_folder_has_the_recipe_of_its_evaluation(store, cfg, tmp_path):
    adapter, sha256 = log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    folder = registry.champion_folder()
    assert adapter_sha256(folder) == sha256
    recipe, trained = Recipe.read(folder), Recipe.read(adapter)
    assert (recipe.decode, recipe.max_count, recipe.temperature) == ("median", 60, 1.5)
    assert recipe.question == trained.question
    assert registry.champion_folder() == folder
    _, better = log_result(cfg, tmp_path, 2, predictions(2, 0.1))
    assert adapter_sha256(registry.champion_folder()) == better


def test_the_champion_flips_as_in_its_evaluation(store, cfg, tmp_path):
    evaluate = cfg.evaluate.model_copy(update={"flip": True})
    log_result(cfg.model_copy(update={"evaluate": evaluate}), tmp_path, 1, predictions(1, 2.0))
    assert Recipe.read(registry.champion_folder()).flip is True
    shutil.rmtree(tmp_path / ".cache")
    store().delete_model_version_tag(registry.MODEL, "1", "flip")  # as before there was the tag
    assert Recipe.read(registry.champion_folder()).flip is False


def test_no_champion_is_a_user_error(store):
    with pytest.raises(UserError, match=r"champion: llava-people-counter has none in sqlite.*name"):
        registry.champion_folder()


def test_a_champion_that_llava_dvc_has_not_made_is_a_user_error(store, cfg, tmp_path):
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    store().set_model_version_tag(registry.MODEL, "1", "temperature", "hot")
    line = r"version 1: its tag temperature is 'hot': Input should be a valid number.*; run `dvc"
    with pytest.raises(UserError, match=line):
        registry.champion_folder()
    store().delete_model_version_tag(registry.MODEL, "1", "adapter")
    line = "^champion: llava-people-counter version 1 has no tag adapter, so llava-dvc has not"
    with pytest.raises(UserError, match=line):
        registry.champion_folder()


def test_a_receipt_is_tagged_on_the_adapters_version(store, cfg, tmp_path):
    adapter, _ = log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    registry.tag_version(store(), adapter_sha256(adapter), {"hub.commit": "abc"})
    assert store().get_model_version(registry.MODEL, "1").tags["hub.commit"] == "abc"
    registry.tag_version(store(), "stranger", {"hub.commit": "def"})
    assert store().get_model_version(registry.MODEL, "1").tags["hub.commit"] == "abc"


def test_an_error_in_the_registry_does_not_stop_the_stage(store, cfg, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(registry, "find_version", lambda *_: 1 / 0)
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    assert (
        ": logging stopped (division by zero); the stage continues without it"
        in capfd.readouterr().err
    )
