"""What stages call to log a result to MLflow and TensorBoard.

There is one run per result: an adapter, its evaluation settings and the data. When the MLflow
server cannot be reached, a stage prints one line and continues.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from llava_dvc.config import Config, flatten
from llava_dvc.recipe import adapter_sha256
from llava_dvc.tracking.background_queue import BackgroundQueue
from llava_dvc.tracking.description import describe_ended, describe_run
from llava_dvc.tracking.mlflow_run import SOURCE_TAGS, MlflowRun, metric_names
from llava_dvc.tracking.mlflow_store import connect
from llava_dvc.tracking.provenance import backbone_revision, dvc_md5, git_tags, version_tags
from llava_dvc.tracking.run_lookup import (
    RunIdentity,
    create_run,
    find_repeated,
    find_run,
    has_ended,
    repeat_run,
    resume_run,
    run_name,
)
from llava_dvc.tracking.system_metrics import (
    SystemMetrics,
    machine_name,
    process_usage,
    stage_name,
)
from llava_dvc.tracking.tensorboard import EventWriter
from llava_dvc.tracking.tensorboard_run import TensorboardRun

TRAINER_METRICS = {  # transformers' names and ours
    "loss": "train/loss",
    "points_loss": "train/points_loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
    "eval_mae": "val/mae",
}

# TensorBoard's table (HParams) has these figures and settings; MLflow has all of them.
HEADLINE = ("mae", "mae_smoothed", "rmse", "accuracy", "coverage_80")
SETTINGS = (
    *("seed", "backbone.name", "image.geometry", "image.tiles", "adapter.method", "adapter.r"),
    *("train.learning_rate", "train.epochs", "train.batch_size", "train.loss", "train.points"),
    *("train.augment", "evaluate.decode"),
)

TRAINING_SECONDS = "train/seconds"
"""The metric of how long a training took, since it was last resumed."""


def digest(*parts: Any) -> str:
    """The sha256 of `parts` as JSON. It is the key of a run: `parts` decide its result."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def result_key(adapter: str, evaluate: Mapping[str, Any], data_md5: str) -> str:
    """The key of an evaluation, from the adapter's sha256, the evaluate section and DVC's md5 of
    the data.
    """
    return digest(adapter, evaluate, data_md5)


@contextmanager
def open_run(
    stage: str,
    cfg: Config,
    sections: set[str],
    key: str,
    tags: Mapping[str, str],
    adapter: str | None = None,
) -> Iterator["Run"]:
    """Opens the run of `stage` with this `key`, or a new one, and ends it after the block.

    `sections` are the sections of params.yaml that decide the result; they are logged as params.
    `adapter` is a sha256. If no run has this key, the run that trained this adapter is used. If
    that run already has a key of this stage, a new run is made.
    """
    git = git_tags()
    source = {"stage": stage, **git, **tags}  # MLflow's page shows the first tags first
    if "backbone" in sections:
        source["backbone_revision"] = backbone_revision(cfg.backbone)
    source |= {f"key.{stage}": key, **SOURCE_TAGS, **version_tags()}
    name = run_name(stage, key, git.get("git_revision", "no-git"))
    run = Run(RunIdentity(stage, key, name, source, adapter))
    run.params(flatten(cfg.model_dump(include=sections, mode="json")))
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run.close("KILLED")
        raise
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")


def open_result(cfg: Config, adapter: str, data_md5: str) -> AbstractContextManager["Run"]:
    """Opens the run of an evaluation of the adapter with this sha256.

    This is the run of its training. If that run already holds another evaluation, it is a separate
    run.
    """
    key = result_key(adapter, cfg.evaluate.model_dump(), data_md5)
    tags = {"adapter": adapter, "data_md5": data_md5}
    return open_run("result", cfg, set(Config.model_fields), key, tags, adapter)


class Run:
    """A run in MLflow and TensorBoard.

    Each method queues its work for a background thread and raises no error of the tracker.
    """

    def __init__(self, identity: RunIdentity) -> None:
        self._identity = identity
        self._mlflow: MlflowRun | None = None  # until the background thread has opened it
        self._held: list[Callable[[MlflowRun], None]] | None = None  # by a repeated training
        self._tensorboard = TensorboardRun(identity)
        self._params: dict[str, Any] = {}
        self._system = SystemMetrics()
        self.queue = BackgroundQueue(self._log_system_metrics, self._system.seconds_until_due)
        self.queue.submit(self._open)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None before the run is open."""
        return self._mlflow.run_id if self._mlflow else None

    def params(self, values: Mapping[str, Any]) -> None:
        self._params |= values
        self._log(lambda mlflow: mlflow.log_params(values))

    def tags(self, values: Mapping[str, str]) -> None:
        """Sets tags. A training sets `adapter` at its end: the sha256 of what it made."""
        if self._identity.stage == "train" and "adapter" in values:
            self.queue.submit(lambda: self._settle(values["adapter"]))
            self.queue.submit_local(
                lambda: self._tensorboard.settle(values["adapter"], self.run_id)
            )
        self._log(lambda mlflow: mlflow.set_tags(values))

    def metrics(self, values: Mapping[str, float]) -> None:
        """Logs metrics without steps. TensorBoard gets a row of its table, of a result only."""
        self._log(lambda mlflow: mlflow.log_results(values))
        if self._identity.stage == "result":
            shown = {f"result/{name}": values[name] for name in HEADLINE if name in values}
            settings = {name: self._params[name] for name in SETTINGS if name in self._params}
            self._draw(lambda events: events.add_table_row(settings, shown))

    def step(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to each curve of a training. Skips steps that are logged already."""
        self._log(lambda mlflow: mlflow.log_step(values, step))
        self._draw(lambda events: events.add_scalars(metric_names(values), step))

    def picture(self, path: Path) -> None:
        """Logs a PNG file as an artifact and as an image in TensorBoard."""
        from PIL import Image

        png = path.read_bytes()
        with Image.open(path) as image:
            width, height = image.size
        self.artifact(path, "plots")
        self._draw(lambda events: events.add_image(path.stem, png, width, height))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Uploads a file, to `folder` among the run's artifacts."""
        self._log(lambda mlflow: mlflow.log_artifact(path, folder), is_upload=True)

    def dataset(self, split: str, md5: str, rows: int) -> None:
        """Logs which data were used; `md5` is DVC's, `rows` the number of frames."""
        self._log(lambda mlflow: mlflow.log_dataset(split, md5, rows))

    def model(self, folder: Path, sha256: str) -> None:
        """Uploads the adapter in `folder` once."""
        self._log(lambda mlflow: mlflow.log_adapter(folder, sha256), is_upload=True)

    def candidate(self, folder: Path, predictions: Path, result: Mapping[str, Any]) -> None:
        """Registers the adapter in `folder` with its evaluation.

        `predictions` is a file like predictions/eval.csv; `result` holds metrics/evaluate.json and
        the evaluate section of params.yaml in one mapping.
        """

        def register(mlflow: MlflowRun) -> None:
            from llava_dvc.tracking import registry  # imports scikit-learn

            mlflow.set_tags({"adapter_md5": dvc_md5(folder)})
            mlflow.log_adapter(folder, adapter_sha256(folder))
            registry.register_candidate(mlflow.client, mlflow.run_id, predictions, result)
            describe_run(mlflow.client, mlflow.run_id)

        self._log(register, is_upload=True)

    def close(self, status: str) -> None:
        """Ends the run, and waits for uploads as long as the tracker answers."""
        self._log_usage()
        self.queue.submit(self._log_system_metrics)
        self._log(lambda mlflow: self._finish(mlflow, status))
        self.queue.close()
        self._tensorboard.close()

    def _open(self) -> None:
        client, experiment = connect()
        self._system.sample()  # disk and network are measured from one sample to the next
        found = find_run(client, experiment, self._identity)
        if found is None:
            self._mlflow = MlflowRun(client, create_run(client, experiment, self._identity))
        elif self._identity.stage == "train" and has_ended(found):
            self._held = []
        else:
            self._mlflow = MlflowRun(client, found)
            resume_run(self._mlflow, found, self._identity)

    def _settle(self, adapter: str) -> None:
        """Decides where a repeated training is logged: in the run that has an equal adapter, which
        has all of it already, or in a run of its own.
        """
        if self._held is None:
            return
        client, experiment = connect()
        found = find_repeated(client, experiment, self._identity, adapter)
        if found is None:
            new = MlflowRun(client, create_run(client, experiment, self._identity))
            for call in self._held:
                call(new)
        else:
            new = MlflowRun(client, found)
            repeat_run(new, found, self._identity)
        self._mlflow, self._held = new, None

    def _log(self, call: Callable[[MlflowRun], None], is_upload: bool = False) -> None:
        """Queues a call to MLflow. It runs after `_open`, or never when that fails."""

        def call_opened() -> None:
            if self._held is not None:
                self._held.append(call)
            else:
                assert self._mlflow is not None
                call(self._mlflow)

        self.queue.submit(call_opened, is_upload)

    def _draw(self, draw: Callable[[EventWriter], None]) -> None:
        """Queues a write to TensorBoard, which also works without the tracker."""

        self.queue.submit_local(lambda: self._tensorboard.draw(draw, self.run_id))

    def _finish(self, mlflow: MlflowRun, status: str) -> None:
        mlflow.finish(status)
        if self._identity.stage != "result":
            describe_ended(mlflow.client, mlflow.run_id)
        mlflow.tag_folders(self._tensorboard.folder_names)

    def _log_usage(self) -> None:
        """Logs how long the stage took, the memory it needed, and its machine."""
        if stage := stage_name():
            usage = {f"usage/{stage}/{name}": value for name, value in process_usage().items()}
            tags = dict.fromkeys(("machine", f"machine.{stage}"), machine_name())
            self._log(lambda mlflow: mlflow.log_results(usage))
            self._log(lambda mlflow: mlflow.set_tags(tags))

    def _log_system_metrics(self) -> None:
        values = self._system.sample() if self._mlflow else {}
        if self._mlflow and values:
            self._mlflow.log_system_metrics(values)


def trainer_callback(run: Run) -> Any:
    """A transformers callback that logs the Trainer's metrics to `run`."""
    from transformers import TrainerCallback

    class LogCallback(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # A resumed training logs again what its killed process may not have sent.
            for logs in state.log_history:
                log(state, logs, logs["step"])

        def on_log(self, args: Any, state: Any, control: Any, logs: Any, **_: Any) -> None:
            log(state, logs, state.global_step)
            if state.is_world_process_zero and "train_runtime" in logs:  # at the end
                run.metrics({TRAINING_SECONDS: logs["train_runtime"]})

    def log(state: Any, logs: Mapping[str, float], step: int) -> None:
        values = {TRAINER_METRICS[n]: v for n, v in logs.items() if n in TRAINER_METRICS}
        if state.is_world_process_zero and values:
            run.step(values, step)

    return LogCallback()
