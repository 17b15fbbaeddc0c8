"""What a stage shows, on a terminal and in a log."""

import io
import re
import sys
from types import SimpleNamespace

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from llava_dvc.terminal.progress import ProgressBar, advance, progress, stage_label, tell
from llava_dvc.terminal.training_progress import TrainingProgress
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_has_a_line_at_every_tenth(capsys):
    with progress("baseline", 1000):
        for _ in range(1000):
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    label, tenths = "[2/5] baseline: ", range(0, 100, 10)
    assert [re.sub(r", \d\d:\d\d left$", "", line) for line in lines] == [
        f"{label}{tenth} %" for tenth in tenths
    ]
    assert all(line.endswith("left") for line in lines[1:])


def test_loading_is_not_in_the_time_left(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr("llava_dvc.terminal.progress.monotonic", lambda: clock[0])
    with progress("publish", 10):
        for seconds, amount in ((100.0, 0), (2.0, 1)):
            clock[0] += seconds
            advance(amount)
    assert capsys.readouterr().err.splitlines()[-1] == "[5/5] publish: 10 %, 00:18 left"


def test_few_large_steps_have_few_lines(capsys):
    with progress("baseline", 3):
        advance(2)
        advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["[2/5] baseline: 0 %", "[2/5] baseline: 60 %"]


def test_a_terminal_has_one_bar_that_goes_away(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    bar = ProgressBar("[3/5] train", 4)
    bar.advance(2)
    bar.show("loss 1.50")
    bar.close()
    text = terminal.getvalue()
    assert "\n" not in text
    assert re.search(r"\[3/5\] train:  50 % \|#+ +\| \d\d:\d\d left, loss 1\.50", text)
    assert text.split("\r")[-2].strip() == ""


def test_nothing_is_shown_for_who_does_not_ask(capsys):
    advance(5)
    with progress("evaluate", 2):
        pass
    advance(1)
    assert capsys.readouterr().err == "[4/5] evaluate: 0 %\n"


def test_the_label_is_the_place_in_dvc_yaml(tmp_path, monkeypatch, capsys):
    tell("publish", "published/ is there")
    assert capsys.readouterr().out == "[5/5] publish: published/ is there\n"
    monkeypatch.chdir(tmp_path)
    assert stage_label("publish") == "publish"


@pytest.fixture
def training(tmp_path):
    """A training of ten steps whose fifth and tenth are validated, from any step on."""

    def run(first: int, history: list[dict[str, float]]) -> None:
        shown, control = TrainingProgress("train"), TrainerControl()
        state = TrainerState(max_steps=10, global_step=first, log_history=history)
        arguments = TrainingArguments(output_dir=str(tmp_path))
        shown.on_train_begin(arguments, state, control)
        for step in range(first + 1, 11):
            state.global_step = step
            shown.on_step_end(arguments, state, control)
            logs = {"loss": 10.0 - step, "grad_norm": 3.0}
            if step % 5 == 0:
                logs = {"eval_mae": step / 4}
                state.log_history.append({**logs, "step": step})
            shown.on_log(arguments, state, control, logs=logs)
        shown.on_train_end(arguments, state, control)

    return run


def test_a_training_shows_loss_and_validation(training, capsys):
    training(0, [])
    said = capsys.readouterr()
    lines = [re.sub(r"\d\d:\d\d", "00:00", line) for line in said.err.splitlines()]
    assert lines[:2] == ["[3/5] train: 0 %", "[3/5] train: 10 %, 00:00 left"]
    assert lines[2] == "[3/5] train: 20 %, 00:00 left, loss 9.00"
    assert lines[-1] == "[3/5] train: 90 %, 00:00 left, loss 2.00, validation MAE 1.25"
    assert len(lines) == 10
    assert said.out == "[3/5] train: 10 of 10 steps, validation MAE 1.25 people after step 5\n"


def test_a_resumed_training_goes_on_where_it_was(training, capsys):
    training(6, [{"step": 5, "eval_mae": 0.75}])
    said = capsys.readouterr()
    first, second, *_ = said.err.splitlines()
    assert first == "[3/5] train: 60 %"
    assert second.startswith("[3/5] train: 70 %,")
    assert "validation MAE 0.75" in second
    assert said.out.endswith("validation MAE 0.75 people after step 5\n")


def test_a_reader_that_is_no_stream_is_no_terminal(monkeypatch):
    """As in a notebook, whose standard error has no descriptor."""
    written: list[str] = []
    stream = SimpleNamespace(write=written.append, flush=lambda: None, isatty=lambda: False)
    monkeypatch.setattr(sys, "stderr", stream)
    ProgressBar("x", 2).close()
    assert written == ["x: 0 %\n"]
