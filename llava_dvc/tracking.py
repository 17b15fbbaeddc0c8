"""MLflow and TensorBoard, in one place. A tracker that is lost costs its lines, never the work.

One MLflow run per result. Runs are found again by the digest in their `key` tag, so no run id is
ever a stage's output.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from llava_dvc.config import Config, flatten
from llava_dvc.outs import state_root

EXPERIMENT = "llava-dvc"
TRIES = 3
SOURCE = {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "PROJECT"}
TRAINER_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "epoch": "train/epoch",
    "eval_mae": "val/mae",
}


@contextmanager
def open_run(
    stage: str,
    cfg: Config,
    sections: set[str],
    key: str,
    tags: Mapping[str, str],
    adopt: str | None = None,
) -> Iterator["Run"]:
    """The run of `stage` with this `key`, a new one if there is none; ended when the block ends.

    `sections` are the parts of params.yaml that decide the result, and are logged. `adopt` is the
    sha256 of an adapter whose training's run is taken when it has no `key` of this stage yet.
    """
    run = Run(run_name(key))
    tags = {"stage": stage, f"key.{stage}": key, **SOURCE, **_git(), **tags}
    run.submit(lambda: run.open(tags, f"key.{stage}", adopt))
    run.params(flatten(cfg.model_dump(include=sections, mode="json")))
    try:
        yield run
    except BaseException:
        run.close("FAILED")
        raise
    run.close("FINISHED")


def open_result(cfg: Config, adapter: str, data_md5: str) -> AbstractContextManager["Run"]:
    """The run of an adapter's evaluation: its training's, or its own when that holds another result
    already.
    """
    key = digest(adapter, cfg.evaluate.model_dump(), data_md5)
    tags = {"adapter": adapter, "data_md5": data_md5}
    sections = set(Config.model_fields) - {"publish"}
    return open_run("result", cfg, sections, key, tags, adopt=adapter)


def digest(*parts: Any) -> str:
    """A key for the run of whatever `parts` decide."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def run_name(key: str) -> str:
    """As DVC names an experiment; outside of one, the git revision and the key's start."""
    revision = _git().get("git_revision", "no-git")
    return os.environ.get("DVC_EXP_NAME") or f"{revision[:7]}-{key[:6]}"


def tracking_uri() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{state_root() / 'mlflow.db'}"


def connect() -> tuple[Any, str]:
    """A client of the store and our experiment's id; the store is made on first use, by one process
    at a time.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    uri = tracking_uri()
    mlflow.set_tracking_uri(uri)
    with FileLock(state_root() / "mlflow.db.lock"):
        client = mlflow.MlflowClient(uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment:
            return client, str(experiment.experiment_id)
        local = uri.startswith("sqlite:")
        location = (state_root() / "mlartifacts").as_uri() if local else None
        # MLflow's pages open on model training instead of chat traces.
        tags = {"mlflow.experimentKind": "custom_model_development"}
        made = client.create_experiment(EXPERIMENT, artifact_location=location, tags=tags)
        return client, str(made)


class Run:
    """What a stage logs, sent in the background and in order; nothing here ever raises into the
    stage.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.client: Any = None
        self.run_id: str | None = None
        self.logged_step = -1
        self._lost = False
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._board: EventFileWriter | None = None

    def open(self, tags: Mapping[str, str], key: str, adopt: str | None) -> None:
        """Find the run by its `key` tag, else an adapter's run that has none yet, else make it."""
        self.client, experiment = connect()
        found = self._search(experiment, f"tags.`{key}` = '{tags[key]}'")
        if not found and adopt:
            trained = self._search(experiment, f"tags.adapter = '{adopt}'")
            found = [run for run in trained if key not in run.data.tags]
        if not found:
            run = self.client.create_run(experiment, run_name=self.name, tags=dict(tags))
            self.run_id = run.info.run_id
            return
        self.name, self.run_id = found[0].info.run_name, found[0].info.run_id
        self.client.update_run(self.run_id, status="RUNNING")
        self.logged_step = self._last_step()
        self._set_tags(tags)

    def params(self, values: Mapping[str, Any]) -> None:
        """Logged once: MLflow refuses a second value for a name, and the run's key already covers
        them.
        """

        def send() -> None:
            known = self.client.get_run(self.run_id).data.params
            for name, value in values.items():
                if name not in known:
                    self.client.log_param(self.run_id, name, value)

        self.submit(send)

    def tags(self, values: Mapping[str, str]) -> None:
        self.submit(lambda: self._set_tags(values))

    def metrics(self, values: Mapping[str, float]) -> None:
        """A result's numbers; those that are there already are not logged again."""

        def send() -> None:
            known = self.client.get_run(self.run_id).data.metrics
            self._points({name: v for name, v in values.items() if known.get(name) != v}, 0)

        self.submit(send)

    def step(self, values: Mapping[str, float], step: int) -> None:
        """A point of the training's curves; steps that an earlier leg of the run logged are left
        out.
        """

        def send() -> None:
            if step > self.logged_step:
                self._points(values, step)

        self.submit(send)

    def picture(self, path: Path) -> None:
        """A PNG as an artifact and on TensorBoard."""
        from PIL import Image

        content = path.read_bytes()
        with Image.open(path) as image:
            width, height = image.size

        def send() -> None:
            self.client.log_artifact(self.run_id, path, "plots")
            png = Summary.Image(
                encoded_image_string=content, width=width, height=height, colorspace=3
            )
            self.board([Summary.Value(tag=path.stem, image=png)], 0)

        self.submit(send)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.submit(lambda: self.client.log_artifact(self.run_id, path, folder))

    def dataset(self, split: str, md5: str, rows: int) -> None:
        """The data version as an MLflow input, by its DVC md5; without a source MLflow would record
        user and script.
        """

        def send() -> None:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            data = Dataset(
                name=f"data-{split}",
                digest=md5,
                source_type="local",
                source=json.dumps({"uri": "data.dvc"}),
                profile=json.dumps({"num_rows": rows}),
            )
            tag = InputTag("mlflow.data.context", split)
            self.client.log_inputs(self.run_id, datasets=[DatasetInput(data, [tag])])

        self.submit(send)

    def model(self, folder: Path, adapter: str) -> None:
        """The adapter as a logged model, stored once."""

        def send() -> None:
            import mlflow
            from mlflow.entities import LoggedModelOutput

            _, experiment = connect()
            query = f"tags.adapter = '{adapter}'"
            if self.client.search_logged_models([experiment], filter_string=query):
                return
            logged = mlflow.create_external_model(
                name="adapter",
                source_run_id=self.run_id,
                tags={"adapter": adapter},
                model_type="peft",
                experiment_id=experiment,
            )
            self.client.log_model_artifacts(logged.model_id, str(folder))
            output = LoggedModelOutput(logged.model_id, step=0)
            self.client.log_outputs(self.run_id, models=[output])

        self.submit(send)

    def board(self, values: list[Any], step: int) -> None:
        """Write to `runs/<run name>/`."""
        if self._board is None:
            self._board = EventFileWriter(str(state_root() / "runs" / self.name))
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=values))
        self._board.add_event(event)

    def submit(self, send: Callable[[], None]) -> None:
        if not self._lost:
            self._worker.submit(self._try, send)

    def close(self, status: str | None) -> None:
        """Wait for what is under way and end the run."""
        if status:
            self.submit(lambda: self.client.set_terminated(self.run_id, status))
        self._worker.shutdown(wait=True)
        if self._board is not None:
            self._board.close()

    def _try(self, send: Callable[[], None]) -> None:
        for attempt in range(TRIES):
            if self._lost:
                return
            try:
                send()
                return
            except Exception as error:  # whatever a tracker raises must not reach the training
                reason = " ".join(str(error).split())[:200]
                time.sleep(0.2 * attempt)
        self._lost = True
        sys.stderr.write(
            f"tracking: {tracking_uri()} is lost ({reason}); the stage goes on without\n"
        )

    def _points(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [
            Metric(re.sub(r"[^\w./: -]", "_", name), float(value), now, step)  # a camera's name
            for name, value in values.items()
        ]
        self.client.log_batch(self.run_id, points)
        self.board([Summary.Value(tag=p.key, simple_value=p.value) for p in points], step)

    def _set_tags(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            self.client.set_tag(self.run_id, name, value)

    def _search(self, experiment: str, query: str) -> list[Any]:
        return list(self.client.search_runs([experiment], query, order_by=["start_time ASC"]))

    def _last_step(self) -> int:
        history = self.client.get_metric_history(self.run_id, "train/loss")
        return max((point.step for point in history), default=-1)


def trainer_callback(run: Run) -> Any:
    """A transformers callback that sends the Trainer's logs to `run`."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **_: Any
        ) -> None:
            known = {TRAINER_NAMES[name]: v for name, v in logs.items() if name in TRAINER_NAMES}
            if state.is_world_process_zero and known:
                run.step(known, state.global_step)

    return Report()


def _git() -> dict[str, str]:
    try:
        command = ["git", "rev-parse", "HEAD"]
        revision = subprocess.run(
            command, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return {}
    return {"git_revision": revision, "mlflow.source.git.commit": revision}
