"""MLflow and TensorBoard, in one place. A tracker that is lost costs its lines, never the work.

One MLflow run per result. Runs are found again by the digest in their `key` tag, so no run id is
ever a stage's output.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from llava_dvc.config import Config, flatten
from llava_dvc.files import state_root
from llava_dvc.recipe import adapter_sha256
from llava_dvc.tracking.background_queue import Sender
from llava_dvc.tracking.mlflow_store import connect
from llava_dvc.tracking.provenance import backbone_revision, code, dvc_md5, environment
from llava_dvc.tracking.system_metrics import Machine
from llava_dvc.tracking.tensorboard import Board

LONGEST = 6000  # characters of a param, by MLflow's rules
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
    run = Run(run_name(stage, key))
    tags = {"stage": stage, f"key.{stage}": key, **SOURCE, **code(), **environment(), **tags}
    if "backbone" in sections:
        tags["backbone_revision"] = backbone_revision(cfg.backbone)
    run.submit(lambda: run.open(tags, f"key.{stage}", adopt))
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
    """The run of an adapter's evaluation: its training's, or its own when that holds another result
    already.
    """
    key = digest(adapter, cfg.evaluate.model_dump(), data_md5)
    tags = {"adapter": adapter, "data_md5": data_md5}
    return open_run("result", cfg, set(Config.model_fields), key, tags, adopt=adapter)


def digest(*parts: Any) -> str:
    """A key for the run of whatever `parts` decide."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def run_name(stage: str, key: str) -> str:
    """A result's, and its training's: as DVC names the experiment, or outside of one the git
    revision and the key's start. The stages that many results share have names of their own.
    """
    if stage not in {"train", "result"}:
        return f"{stage}-{key[:6]}"
    revision = code().get("git_revision", "no-git")
    return os.environ.get("DVC_EXP_NAME") or f"{revision[:7]}-{key[:6]}"


class Run:
    """What a stage logs, sent in the background and in order; nothing here ever raises into the
    stage.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.client: Any = None
        self.run_id: str | None = None
        self._logged: dict[str, int] = {}  # last step of each curve
        self.started = time.time()
        self._folder = name
        self._board: Board | None = None
        self._machine = Machine()
        self._sender = Sender(self._sample, self._machine.due)

    def open(self, tags: Mapping[str, str], key: str, adopt: str | None) -> None:
        """Find the run by its `key` tag, else an adapter's run that has none yet, else make it."""
        self.client, experiment = connect()
        self._machine.sample()  # the next one tells of the time since
        found = self._search(experiment, f"tags.`{key}` = '{tags[key]}'")
        trained: list[Any] = []
        if found:
            self.name = found[0].info.run_name
        elif adopt:
            trained = self._search(experiment, f"tags.adapter = '{adopt}' and tags.key.train != ''")
            found = [run for run in trained if key not in run.data.tags]
        if not found:
            tags = {**tags, "tensorboard": self.name}
            if trained:
                tags["training_run"] = trained[0].info.run_id
            run = self.client.create_run(experiment, run_name=self.name, tags=tags)
            self.run_id, self.started = run.info.run_id, run.info.start_time / 1000
            return
        info, known = found[0].info, found[0].data.tags
        if not os.environ.get("DVC_EXP_NAME"):  # a training keeps its name, but DVC's goes first
            self.name = info.run_name
        self.run_id, self.started = info.run_id, info.start_time / 1000
        self._folder = known.get("tensorboard", info.run_name)
        self.client.update_run(self.run_id, status="RUNNING", name=self.name)
        self._logged = self._last_steps()
        if key != "key.train" and known.get("dirty") == "true":
            tags = {**tags, "dirty": "true"}  # an evaluation does not clean what was trained dirty
        self._set_tags(tags)

    def params(self, values: Mapping[str, Any]) -> None:
        """Logged once: MLflow refuses a second value for a name, and the run's key already covers
        them.
        """

        def send() -> None:
            from mlflow.entities import Param

            known = self.client.get_run(self.run_id).data.params
            new = [Param(n, str(v)[:LONGEST]) for n, v in values.items() if n not in known]
            self.client.log_batch(self.run_id, params=new)

        self.submit(send)

    def tags(self, values: Mapping[str, str]) -> None:
        self.submit(lambda: self._set_tags(values))

    def metrics(self, values: Mapping[str, float]) -> None:
        """A result's numbers; those that are there already are not logged again."""

        def send() -> None:
            known = self.client.get_run(self.run_id).data.metrics
            self._points({name: v for name, v in values.items() if known.get(name) != v}, 0)

        self.submit(send)
        grouped = {n if "/" in n else f"result/{n}": v for n, v in _named(values).items()}
        self.draw(lambda board: board.points(grouped, 0))

    def step(self, values: Mapping[str, float], step: int) -> None:
        """A point of the training's curves; steps that an earlier leg of the run logged are left
        out.
        """

        def send() -> None:
            new = {name: v for name, v in values.items() if step > self._logged.get(name, -1)}
            self._points(new, step)
            self._logged |= dict.fromkeys(new, step)

        self.submit(send)
        self.draw(lambda board: board.points(_named(values), step))

    def picture(self, path: Path) -> None:
        """A PNG as an artifact and on TensorBoard."""
        from PIL import Image

        content = path.read_bytes()
        with Image.open(path) as image:
            width, height = image.size

        self.artifact(path, "plots")
        self.draw(lambda board: board.picture(path.stem, content, width, height))

    def artifact(self, path: Path, folder: str | None = None) -> None:
        self.submit(lambda: self.client.log_artifact(self.run_id, path, folder), slow=True)

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
        self.submit(lambda: self._store(folder, adapter), slow=True)

    def candidate(self, folder: Path, predictions: Path, result: Mapping[str, Any]) -> None:
        """Register the adapter in `folder` by what it answered: `result` is the flat
        metrics/evaluate.json with the params of evaluation.
        """

        def send() -> None:
            from llava_dvc.tracking import registry  # late: with scikit-learn

            self._set_tags({"adapter_md5": dvc_md5(folder)})
            self._store(folder, adapter_sha256(folder))
            registry.offer(self.client, str(self.run_id), predictions, result)

        self.submit(send, slow=True)

    def draw(self, draw: Callable[[Board], None]) -> None:
        """On TensorBoard, in `runs/<name of the run when it began>/`, also without the tracker."""

        def local() -> None:
            self._board = self._board or Board(state_root() / "runs" / self._folder)
            draw(self._board)

        self._sender.do_here(local)

    def submit(self, send: Callable[[], None], slow: bool = False) -> None:
        """Do `send` in the background; `slow` is for what may take minutes."""
        self._sender.submit(send, slow)

    def close(self, status: str) -> None:
        """End the run, and wait for what is under way while the tracker does its part."""
        self.submit(self._sample)
        self.submit(lambda: self.client.set_terminated(self.run_id, status))
        self._sender.close()
        if self._board:
            self._board.close()

    def _sample(self) -> None:
        """How busy the machine is, at the seconds since the run began."""
        if self.run_id and (found := self._machine.sample()):
            from mlflow.entities import Metric

            now = time.time()
            points = [
                Metric(f"system/{name}", value, int(now * 1000), int(now - self.started))
                for name, value in found.items()
            ]
            self.client.log_batch(self.run_id, points)

    def _store(self, folder: Path, adapter: str) -> None:
        from mlflow.entities import LoggedModelOutput

        experiment = self.client.get_run(self.run_id).info.experiment_id
        query = f"tags.adapter = '{adapter}'"
        stored = self.client.search_logged_models([experiment], filter_string=query)
        if any(model.status == "READY" for model in stored):  # the others were cut off
            return
        # Not mlflow.create_external_model, which tags it with the user and git's remote URL.
        tags = {"adapter": adapter, **SOURCE}
        model = self.client.create_logged_model(
            experiment, "adapter", self.run_id, tags, None, "peft"
        )
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        self.client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step=0)])

    def _points(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        points = [Metric(n, float(value), now, step) for n, value in _named(values).items()]
        self.client.log_batch(self.run_id, points)

    def _set_tags(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in values.items()]
        self.client.log_batch(self.run_id, tags=tags)

    def _search(self, experiment: str, query: str) -> list[Any]:
        return list(self.client.search_runs([experiment], query, order_by=["start_time ASC"]))

    def _last_steps(self) -> dict[str, int]:
        return {
            name: max(point.step for point in history)
            for name in TRAINER_NAMES.values()
            if (history := self.client.get_metric_history(self.run_id, name))
        }


def trainer_callback(run: Run) -> Any:
    """A transformers callback that sends the Trainer's logs to `run`."""
    from transformers import TrainerCallback

    class Report(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for logs in state.log_history:  # of the checkpoint: what a killed leg could not send
                self.on_log(args, state, control, logs, step=logs["step"])

        def on_log(
            self,
            args: Any,
            state: Any,
            control: Any,
            logs: dict[str, float],
            step: int | None = None,
            **_: Any,
        ) -> None:
            known = {TRAINER_NAMES[name]: v for name, v in logs.items() if name in TRAINER_NAMES}
            if state.is_world_process_zero and known:
                run.step(known, state.global_step if step is None else step)

    return Report()


def _named(values: Mapping[str, float]) -> dict[str, float]:
    """By names that MLflow takes: a camera's may have any letter."""
    return {re.sub(r"[^\w./: -]", "_", name): value for name, value in values.items()}
