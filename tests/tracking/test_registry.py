import numpy as np
import pandas as pd
import pytest

from llava_dvc.errors import UserError
from llava_dvc.recipe import Recipe, adapter_sha256
from llava_dvc.tracking import registry
from tests.results import log_result, predictions


def roles(client):
    """Which adapter has which alias, by its sha256."""
    aliases = client.get_registered_model(registry.MODEL).aliases
    return {
        alias: client.get_model_version(registry.MODEL, version).tags["adapter"]
        for alias, version in aliases.items()
    }


def test_the_first_adapter_takes_both_places(store, cfg, tmp_path, capfd):
    _, first = log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    assert roles(store()) == {"challenger": first, "champion": first}
    assert "version 1 is champion: the first adapter" in capfd.readouterr().out


def test_of_several_first_adapters_the_oldest_reigns(store, cfg, tmp_path):
    """As when machines register at once: the second finds the first without an alias yet."""
    _, first = log_result(cfg, tmp_path, 1, predictions(1, 1.02))
    store().delete_registered_model_alias(registry.MODEL, registry.CHAMPION)
    _, second = log_result(cfg, tmp_path, 2, predictions(2, 1.0))
    assert roles(store()) == {"challenger": second, "champion": first}


def test_a_champion_of_the_last_moment_is_compared_too(store, cfg, tmp_path, monkeypatch):
    """Another machine's adapter takes the place while ours is compared with the one before."""
    log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    _, best = log_result(cfg, tmp_path, 2, predictions(2, 0.1))
    place = (registry.MODEL, registry.CHAMPION)
    store().set_registered_model_alias(*place, "1")
    compare = registry.challenge

    def slowly(client, *others):
        found = compare(client, *others)
        client.set_registered_model_alias(*place, "2")
        return found

    monkeypatch.setattr(registry, "challenge", slowly)
    _, third = log_result(cfg, tmp_path, 3, predictions(3, 1.0))
    assert roles(store()) == {"challenger": third, "champion": best}


def test_a_better_adapter_takes_the_champions_place(store, cfg, tmp_path, capfd):
    log_result(cfg, tmp_path, 1, predictions(1, 5.0))
    _, better = log_result(cfg, tmp_path, 2, predictions(2, 1.0))
    assert roles(store()) == {"challenger": better, "champion": better}
    version = store().get_model_version(registry.MODEL, "2")
    assert "people against the champion (version 1), 95 % of -" in version.description


@pytest.mark.parametrize("noise", [1.95, 5.0])  # better by 0.12 people, which may be chance; worse
def test_an_adapter_that_is_not_better_is_only_the_challenger(store, cfg, tmp_path, noise):
    _, first = log_result(cfg, tmp_path, 1, predictions(3, 2.05))
    _, second = log_result(cfg, tmp_path, 2, predictions(4, noise))
    assert roles(store()) == {"challenger": second, "champion": first}
    version = store().get_model_version(registry.MODEL, "2")
    assert ("-0.12 people" in version.description) == (noise == 1.95)


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


def test_an_adapter_is_one_version_however_it_is_read(store, cfg, tmp_path):
    other = cfg.model_copy(update={"evaluate": cfg.evaluate.model_copy(update={"decode": "mean"})})
    for settings in (cfg, other, cfg):
        log_result(settings, tmp_path, 1, predictions(1, 2.0))
    (version,) = store().search_model_versions(f"name = '{registry.MODEL}'")
    assert version.tags["decode"] == "median"


def test_the_difference_is_paired():
    """Both err by much on the same frames: frame by frame the small difference is certain."""
    count = np.tile([10, 40], 200)
    old = pd.DataFrame({"frame": range(400), "count": count, "predicted": count + count // 2})
    new = old.assign(predicted=old["predicted"] - 1)
    assert registry.difference(new, old) == (-1.0, -1.0, -1.0)
    assert registry.difference(new, old.assign(count=count + 1)) is None


def test_the_champions_folder_answers_as_its_evaluation_did(store, cfg, tmp_path):
    adapter, sha256 = log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    folder = registry.champion_folder()
    assert adapter_sha256(folder) == sha256
    recipe, trained = Recipe.read(folder), Recipe.read(adapter)
    assert (recipe.decode, recipe.max_count, recipe.temperature) == ("median", 60, 1.5)
    assert recipe.question == trained.question
    assert registry.champion_folder() == folder
    _, better = log_result(cfg, tmp_path, 2, predictions(2, 0.1))
    assert adapter_sha256(registry.champion_folder()) == better


def test_no_champion_is_a_users_mistake(store):
    with pytest.raises(UserError, match=r"champion: llava-people-counter has none in sqlite.*name"):
        registry.champion_folder()


def test_a_receipt_goes_to_the_adapters_version(store, cfg, tmp_path):
    adapter, _ = log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    registry.tag_version(store(), adapter_sha256(adapter), {"hub.commit": "abc"})
    assert store().get_model_version(registry.MODEL, "1").tags["hub.commit"] == "abc"
    registry.tag_version(store(), "stranger", {"hub.commit": "def"})
    assert store().get_model_version(registry.MODEL, "1").tags["hub.commit"] == "abc"


def test_a_registry_that_fails_leaves_the_stage_alone(store, cfg, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(registry, "find", lambda *_: 1 / 0)
    log_result(cfg, tmp_path, 1, predictions(1, 2.0))
    assert "is lost (division by zero); the stage goes on without" in capfd.readouterr().err
