"""Checkpoints of a run: asynchronous, atomic, with the best one kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from ipg_jax.training.state import TrainState
from ipg_jax.types import PyTree
from ipg_jax.weights import by_path, differences

logger = logging.getLogger(__name__)

BEST_METRIC = "AP"

# By default each device with a copy writes a slice of it, for which the first checkpoint compiles
# a program for each shape while the training waits.
_TYPE_HANDLERS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
)


def config_digest(config: Mapping[str, Any]) -> str:
    """Returns a short hash that changes when any value of `config` does."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


def _quality(metrics: Mapping[str, Any]) -> float:
    """Ranks checkpoints: those that were not evaluated, or without objects, come last."""
    return metrics.get(BEST_METRIC, -1.0)


class Checkpoints:
    """The folder `checkpoints/<step>/` of a workdir.

    Saving is asynchronous and atomic: a run killed at any moment leaves only whole checkpoints
    behind. The newest `keep` stay, and the one with the best AP of those saved with an evaluation.
    """

    def __init__(
        self, directory: epath.PathLike, *, keep: int = 3, digest: str = "", read_only: bool = False
    ) -> None:
        """Opens `directory` and makes it if need be.

        Args:
          directory: local folder or `gs://` URL.
          keep: how many of the newest checkpoints to keep.
          digest: `config_digest` of the run, stored with each checkpoint.
          read_only: never write or delete.

        Raises:
          FileNotFoundError: `read_only`, and there is no checkpoint.
        """
        self._directory = epath.Path(directory).absolute()
        self._digest = digest
        if read_only and not self._directory.exists():
            raise FileNotFoundError(f"no checkpoints in {directory}: was this run trained?")
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_handlers=ocp.PyTreeCheckpointHandler(type_handler_registry=_TYPE_HANDLERS),
            options=ocp.CheckpointManagerOptions(
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
                best_fn=_quality,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                    [
                        checkpoint_managers.LatestN(keep),
                        checkpoint_managers.BestN(get_metric_fn=_quality, n=1),
                    ]
                ),
            ),
        )

    def save(self, step: int, state: TrainState, metrics: Mapping[str, Any] | None = None) -> None:
        """Starts to write `state`, which may be donated to the next step at once.

        Args:
          step: the state's step.
          state: what to write.
          metrics: of an evaluation of this state; its AP ranks the checkpoint.
        """
        self._manager.save(
            step,
            args=ocp.args.PyTreeSave(state),
            metrics={
                k: v for k, v in (metrics or {}).items() if k == BEST_METRIC and v is not None
            },
            custom_metadata={"config_digest": self._digest},
            force=True,
        )

    def restore(self, template: TrainState, step: int | None = None) -> Any:
        """Returns a checkpoint as a `TrainState` that lies on the devices as `template` does.

        Args:
          template: a state of the same structure, or its shapes with shardings (`abstract_state`).
            The run that wrote the checkpoint may have had other devices and other shardings.
          step: which; the newest by default.

        Raises:
          FileNotFoundError: there is no such checkpoint; the message lists those that exist.
          ValueError: the checkpoint has another structure or other shapes.
        """
        self._manager.wait_until_finished()  # one that is listed may still be on its way to disk
        step = self.latest if step is None else step
        if step is None or step not in self.steps:
            raise FileNotFoundError(
                f"no checkpoint {'' if step is None else step} in {self._directory}; "
                f"there are {self.steps or 'none'}"
            )
        stored = by_path(self._manager.item_metadata(step))
        like = template
        if template.ema is not None and not any(path.startswith("ema/params/") for path in stored):
            like = template.replace(ema=template.ema["params"])  # version 0.1 averaged these alone
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        problems = differences(by_path(like), stored)
        if problems:
            raise ValueError(
                f"checkpoint {step} in {self._directory} does not fit this config's model or "
                "optimizer:\n  " + "\n  ".join(problems)
            )
        arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
        state = self._manager.restore(step, args=ocp.args.PyTreeRestore(abstract, arguments))
        if like is not template:
            # Copies, as those of `TrainState.create`.
            batch_stats = jax.tree.map(jnp.copy, state.batch_stats)
            state = state.replace(ema={"params": state.ema, "batch_stats": batch_stats})
        metadata = self._manager.metadata(step).custom_metadata or {}
        written = metadata.get("config_digest", "")
        if self._digest and written and written != self._digest:
            logger.warning(
                "checkpoint %d was written with another config (digest %s, now %s); "
                "the differences were listed against config.json",
                step,
                written,
                self._digest,
            )
        return state

    @property
    def steps(self) -> list[int]:
        """Steps of all checkpoints, oldest first."""
        return sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the best AP, or None if none was evaluated."""
        step = self._manager.best_step()
        return step if step is not None and self._manager.metrics(step) else None

    def reached_preemption(self, step: int) -> bool:
        """Returns whether all processes of a multi-host run agreed to stop after this step."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for the last write to end."""
        self._manager.wait_until_finished()
        self._manager.close()


def load_variables(path: epath.PathLike) -> PyTree:
    """Returns the variables to evaluate with from a checkpoint of another run, as NumPy arrays.

    Args:
      path: a workdir (its best checkpoint, or else its newest), or one `checkpoints/<step>`.

    Raises:
      FileNotFoundError: there is no checkpoint.
    """
    folder = epath.Path(path).absolute()
    # A workdir may be named by digits, too.
    if (folder / "checkpoints").is_dir() or not folder.name.isdigit():
        checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
        step = checkpoints.best if checkpoints.best is not None else checkpoints.latest
        checkpoints.close()
        folder = folder / "checkpoints" / str(step)
    if not folder.exists():
        raise FileNotFoundError(f"no checkpoint {path}")
    with ocp.PyTreeCheckpointer() as reader:
        arrays = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            reader.metadata(folder / "default").item_metadata.tree,
        )
        state = reader.restore(folder / "default", ocp.args.PyTreeRestore(restore_args=arrays))
    average = state.get("ema") or {}
    if average and "params" not in average:  # of version 0.1
        average = {"params": average}
    return {name: average.get(name) or state.get(name) or {} for name in ("params", "batch_stats")}
