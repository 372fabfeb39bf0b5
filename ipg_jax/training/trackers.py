"""Where a run is looked at while it trains: TensorBoard, Weights & Biases, MLflow.

What is shown there is written to `metrics.jsonl` and `samples/` as well (`metrics.MetricWriter`).
"""

from __future__ import annotations

import abc
import importlib.util
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from etils import epath
from jaxtyping import UInt8

from ipg_jax.files import is_remote, read_json, write_whole
from ipg_jax.training.plain_config import flat_fields

logger = logging.getLogger(__name__)

PROJECT = "ipg_jax"
"""Project of Weights & Biases and experiment of MLflow, unless the environment names others."""


class Tracker(abc.ABC):
    """Shows the scalars and pictures of one run.

    Attributes:
      packages: what has to be installed for it, besides what the project needs.
      run_id: by what a service knows the run; empty where the workdir holds all of it.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    run_id: str = ""

    @abc.abstractmethod
    def __init__(
        self, workdir: epath.Path, config: Mapping[str, Any], *, start_step: int, run_id: str
    ):
        """Begins or goes on.

        Args:
          workdir: folder of the run; its last part is the run's name.
          config: the run's, as plain JSON values.
          start_step: the step that the run goes on from.
          run_id: that of the run so far; empty for one that begins.
        """

    @abc.abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Shows finite values by their names."""

    @abc.abstractmethod
    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Shows a picture."""

    @abc.abstractmethod
    def close(self, *, failed: bool) -> None:
        """Sends what is left, and says whether an error ended the run."""


class TensorBoard(Tracker):
    """Event files in the workdir."""

    def __init__(
        self, workdir: epath.Path, config: Mapping[str, Any], *, start_step: int, run_id: str
    ):
        from tensorboardX import SummaryWriter

        self._events = SummaryWriter(str(workdir), purge_step=start_step + 1, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.scalars`."""
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """See `Tracker.image`."""
        self._events.add_image(name, image, step, dataformats="HWC")

    def close(self, *, failed: bool) -> None:
        """See `Tracker.close`."""
        self._events.close()


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, which takes its settings from `WANDB_*` of the environment.

    Its own steps cannot go back, as those of a run do that was killed and goes on from its last
    checkpoint. So the step is a value of its own, which curves are drawn over.
    """

    packages = ("wandb",)

    def __init__(
        self, workdir: epath.Path, config: Mapping[str, Any], *, start_step: int, run_id: str
    ):
        import wandb

        self._picture = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=os.environ.get("WANDB_NAME", workdir.name),
            dir=None if is_remote(workdir) else os.fspath(workdir),
            config=dict(config),
            id=run_id or None,
            resume="allow",
            allow_val_change=True,  # of fields that a run may change on its way, such as its length
        )
        self._run.define_metric("*", step_metric="step")
        self.run_id = self._run.id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.scalars`."""
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """See `Tracker.image`."""
        self._run.log({"step": step, name: self._picture(image)})

    def close(self, *, failed: bool) -> None:
        """See `Tracker.close`."""
        self._run.finish(exit_code=int(failed))


class Mlflow(Tracker):
    """A run of MLflow, on the server of `MLFLOW_TRACKING_URI` or in a database in the workdir."""

    packages = ("mlflow", "sqlalchemy", "alembic")

    def __init__(
        self, workdir: epath.Path, config: Mapping[str, Any], *, start_step: int, run_id: str
    ):
        import mlflow

        self._metric = mlflow.entities.Metric
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        if mlflow.is_tracking_uri_set():
            self._client = mlflow.MlflowClient()
            artifacts = None
        elif is_remote(workdir):
            raise ValueError(f"{workdir} can hold no database: set MLFLOW_TRACKING_URI")
        else:
            folder = os.path.abspath(workdir)
            self._client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
            artifacts = f"{folder}/mlartifacts"
        if run_id:
            self.run_id = run_id
            self._client.update_run(run_id, status="RUNNING")
        else:
            known = self._client.get_experiment_by_name(name)
            experiment = (
                self._client.create_experiment(name, artifacts)
                if known is None
                else known.experiment_id
            )
            self.run_id = self._client.create_run(experiment, run_name=workdir.name).info.run_id
            fields = flat_fields(config).items()
            params = [mlflow.entities.Param(field, str(value)) for field, value in fields]
            for i in range(0, len(params), 100):  # as many as one call takes
                self._client.log_batch(self.run_id, params=params[i : i + 100])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """See `Tracker.scalars`."""
        now = round(1000 * time.time())
        metrics = [self._metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """See `Tracker.image`."""
        self._client.log_image(self.run_id, image, key=name, step=step)

    def close(self, *, failed: bool) -> None:
        """See `Tracker.close`."""
        self._client.set_terminated(self.run_id, "FAILED" if failed else "FINISHED")


TRACKERS: dict[str, type[Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": Mlflow,
}
"""What `config.trackers` names; those that need packages are extras of these names."""


def check_installed(names: Sequence[str]) -> None:
    """Raises ImportError, which names the extra, unless the trackers' packages are installed."""
    for name in names:
        for package in TRACKERS[name].packages:
            if importlib.util.find_spec(package) is None:
                raise ImportError(
                    f"config.trackers has {name}, and {package} is not installed: "
                    f"pip install 'ipg-jax[{name}]'"
                )


def open_trackers(
    names: Sequence[str], workdir: epath.Path, config: Mapping[str, Any], *, start_step: int
) -> dict[str, Tracker]:
    """Returns the trackers of a run by their names.

    A run that goes on does so in the runs of the services that it began: `trackers.json` in the
    workdir has their ids. One that starts from scratch begins new ones.

    Args:
      names: keys of `TRACKERS`.
      workdir: folder of the run.
      config: the run's, as plain JSON values.
      start_step: the step that the run goes on from; 0 from scratch.

    Raises:
      ValueError: a tracker does not start, or `trackers.json` is damaged.
    """
    path = workdir / "trackers.json"
    ids: dict[str, str] = {}
    if start_step > 0 and path.exists():
        ids = read_json(path, dict, "remove this file, and trackers begin new runs")
    trackers = {}
    for name in names:
        try:
            trackers[name] = TRACKERS[name](
                workdir, config, start_step=start_step, run_id=ids.get(name, "")
            )
        # Services and their packages raise about anything.
        except Exception as error:
            known = f" with the run {ids[name]} of {path}" if name in ids else ""
            raise ValueError(f"config.trackers: {name} does not start{known}: {error}") from error
    new = ids | {name: tracker.run_id for name, tracker in trackers.items() if tracker.run_id}
    if new != ids:
        write_whole(path, json.dumps(new, indent=2))
    return trackers
