import shutil
import signal
import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerCallback

from llava_dvc.errors import UserError
from llava_dvc.training.checkpoint_copies import CopyCheckpoints, checkpoint_copies
from llava_dvc.training.checkpoints import last_checkpoint, seal
from tests.training.test_checkpoints import SignalAfter
from tests.training.test_count_trainer import train, weights

KEY = "0123456789abcdef-and-more"


class FirstStep(TrainerCallback):
    step: int | None = None

    def on_step_begin(self, args, state, control, **_):
        self.step = state.global_step if self.step is None else self.step


def checkpoint(folder, step):
    """A sealed checkpoint, and a validation that this step has written."""
    made = folder / f"checkpoint-{step}"
    (made / "rng").mkdir(parents=True)
    (made / "weights").write_text(f"of {step}")
    (made / "rng" / "state").write_text("random")
    seal(made)
    (folder / "validation").mkdir(exist_ok=True)
    (folder / "validation" / f"{step}.npy").write_text(f"answers of {step}")


def copy(place, folder, *steps):
    copies = CopyCheckpoints(str(place), KEY, folder)
    for step in steps:
        checkpoint(folder, step)
        copies.on_save(None, SimpleNamespace(is_world_process_zero=True, global_step=step), None)
    copies.close()
    return copies


def restore(place, folder):
    folder.mkdir(exist_ok=True)
    CopyCheckpoints(str(place), KEY, folder).restore()
    return last_checkpoint(folder)


def files(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}


def test_a_fresh_machine_trains_the_same_adapter(cfg, encoder, rows, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", sys.stdout)  # closed by a stop
    whole = weights(train(cfg, encoder, rows, tmp_path / "whole"))
    place, here, fresh = str(tmp_path / "place"), tmp_path / "here", tmp_path / "fresh"
    here.mkdir()
    with pytest.raises(SystemExit), checkpoint_copies(place, KEY, here) as copies:
        train(cfg, encoder, rows, here, [*copies, SignalAfter(2, signal.SIGTERM)])
    shutil.rmtree(here)
    fresh.mkdir()
    first = FirstStep()
    with checkpoint_copies(place, KEY, fresh) as copies:
        resumed = weights(train(cfg, encoder, rows, fresh, [*copies, first]))
    assert first.step == 3
    assert "resumes from the checkpoint of step 3 in " in capfd.readouterr().err
    assert all((resumed[name] == tensor).all() for name, tensor in whole.items())
    assert not list((tmp_path / "place").iterdir())  # deleted after success


def test_checkpoint_and_validations_come_back_as_they_were(tmp_path):
    here, fresh = tmp_path / "here", tmp_path / "fresh"
    copy(tmp_path / "place", here, 2)
    assert restore(tmp_path / "place", fresh) == str(fresh / "checkpoint-2")
    shutil.rmtree(here / "outgoing")
    assert files(fresh) == files(here)


def test_a_copy_without_its_end_is_not_used(tmp_path, capfd):
    place = tmp_path / "place"
    copy(place, tmp_path / "here", 2, 4)
    (place / KEY[:16] / "4" / "manifest.json").unlink()
    assert restore(place, tmp_path / "fresh").endswith("checkpoint-2")
    assert "the checkpoint of step 4 in" in capfd.readouterr().err
    assert not (tmp_path / "fresh" / "fetched").exists()


def test_a_damaged_copy_is_not_used(tmp_path):
    place = tmp_path / "place"
    copy(place, tmp_path / "here", 2)
    (place / KEY[:16] / "2" / "checkpoint-2" / "weights").write_text("of 9")
    assert restore(place, tmp_path / "fresh") is None


def test_a_newer_checkpoint_of_this_machine_is_kept(tmp_path):
    copy(tmp_path / "place", tmp_path / "here", 2)
    checkpoint(tmp_path / "fresh", 4)
    assert restore(tmp_path / "place", tmp_path / "fresh").endswith("checkpoint-4")
    assert not (tmp_path / "fresh" / "checkpoint-2").exists()


def test_two_copies_are_kept(tmp_path):
    for step in (2, 4, 10):
        copy(tmp_path / "place", tmp_path / "here", step)
    kept = (tmp_path / "place" / KEY[:16]).iterdir()
    assert {path.name for path in kept} == {"writable", "4", "10"}


def test_a_slow_place_gets_the_newest(tmp_path, monkeypatch):
    send, order = CopyCheckpoints._send, []

    def slow(self, staged):
        order.append(staged.name)
        while len(order) == 1 and not (self.folder / "checkpoint-6").exists():
            pass
        send(self, staged)

    monkeypatch.setattr(CopyCheckpoints, "_send", slow)
    copy(tmp_path / "place", tmp_path / "here", 2, 4, 6)
    assert order[-1] == "6"
    assert "4" not in order
    assert not list((tmp_path / "here" / "outgoing").iterdir())


def test_a_copy_that_fails_stops_nothing(tmp_path, capfd):
    place = tmp_path / "place"
    copies = CopyCheckpoints(str(place), KEY, tmp_path / "here")
    shutil.rmtree(place)
    place.write_text("a file")
    checkpoint(tmp_path / "here", 2)
    copies.on_save(None, SimpleNamespace(is_world_process_zero=True, global_step=2), None)
    copies.close()
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("train.checkpoint_to: the checkpoint of step 2 was not copied to ")
    copies.remove()
    assert "delete it" in capfd.readouterr().err


def fail_after_a_checkpoint(place, folder):
    with checkpoint_copies(str(place), KEY, folder) as copies:
        checkpoint(folder, 2)
        state = SimpleNamespace(is_world_process_zero=True, global_step=2)
        copies[0].on_save(None, state, None)
        raise ZeroDivisionError


def test_a_failed_training_keeps_its_copies(tmp_path):
    with pytest.raises(ZeroDivisionError):
        fail_after_a_checkpoint(tmp_path / "place", tmp_path / "here")
    assert (tmp_path / "place" / KEY[:16] / "2" / "manifest.json").exists()


@pytest.mark.parametrize("place", ["/dev/null/copies", "s4://bucket/folder"])
def test_a_wrong_place_is_one_line(tmp_path, place):
    with pytest.raises(UserError) as error:
        CopyCheckpoints(place, KEY, tmp_path)
    (line,) = str(error.value).splitlines()
    assert line.startswith(f"train.checkpoint_to: nothing can be written to {place} (")


def test_a_place_that_fails_later_is_one_line(tmp_path):
    place = tmp_path / "place"
    copy(place, tmp_path / "here", 2)
    copies = CopyCheckpoints(str(place), KEY, tmp_path / "fresh")
    shutil.rmtree(place)
    with pytest.raises(UserError, match=r"cannot be fetched .*; run `dvc repro` again"):
        copies.restore()
