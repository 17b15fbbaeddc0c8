import os
import signal

import pytest
from transformers import TrainerCallback

from llava_dvc.checks.training_cost import (
    STEPS,
    TO_WARM,
    TimedSteps,
    TrainingLength,
    reckoned_seconds,
    time_steps,
    training_length,
)
from llava_dvc.config import Config
from llava_dvc.training.count_trainer import CountTrainer, TrainingSpec


def test_slow_first_steps_count_once():
    steps = [30.0] * TO_WARM + [2.0] * (STEPS - TO_WARM)
    timed = TimedSteps(start=10.0, steps=steps, validation=0.5)
    seconds = reckoned_seconds(TrainingLength(TO_WARM + 100, 2, 20), timed)
    assert seconds == 10 + 30 * TO_WARM + 2 * 100 + 0.5 * 2 * 20


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 2, "augment": ()},
        {"epochs": 3, "accumulation": 2, "batch_size": 3},
        {"epochs": 1, "validate_every": 3},
    ],
)
def test_the_length_is_that_of_the_trainer(cfg, rows, backbone, encoder, tmp_path, changes):
    values = cfg.model_dump()
    values["train"] |= changes
    settings = Config.model_validate(values)
    found = training_length(settings, rows, rows, encoder)
    spec = TrainingSpec(rows, rows, settings.adapter, settings.train, 17, tmp_path)
    trainer = CountTrainer(backbone, encoder, spec)
    loader = trainer.get_train_dataloader()
    assert found.steps == trainer.set_initial_training_values(trainer.args, loader)[-1]
    every = settings.train.validate_every
    assert found.validations == settings.train.epochs + (found.steps // every if every else 0)


class CtrlC(TrainerCallback):
    def on_step_begin(self, args, state, control, **_):
        os.kill(os.getpid(), signal.SIGINT)


def test_a_stop_speaks_of_no_checkpoint(cfg, rows, backbone, encoder, tmp_path, capfd):
    """Unlike a training, the doctor has nothing to continue from."""
    spec = TrainingSpec(rows, rows, cfg.adapter, cfg.train, 17, tmp_path, [CtrlC()])
    with pytest.raises(KeyboardInterrupt):
        time_steps(CountTrainer(backbone, encoder, spec))
    assert "checkpoint" not in capfd.readouterr().err
