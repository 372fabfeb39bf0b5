"""Checkpoints of a run: asynchronous, atomic, with checksums, and with the best one kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from ipg_jax.training import hosts
from ipg_jax.training.checkpoint_files import (
    find_damage,
    find_steps,
    read_digest,
    read_scores,
    set_aside,
    write_score,
)
from ipg_jax.training.checkpoint_io import (
    SaveArgs,
    StateHandler,
    read_numpy,
    restore_state,
)
from ipg_jax.training.state import TrainState
from ipg_jax.types import PyTree

logger = logging.getLogger(__name__)

BEST_METRIC = "AP"


def config_digest(config: Mapping[str, Any]) -> str:
    """Returns a short hash that changes when any value of `config` does."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _KeepNewestAndBest:
    """Which checkpoints stay when another one is written."""

    newest: int
    best: Callable[[], int | None]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        kept = {checkpoint.step for checkpoint in checkpoints[-self.newest :]} | {self.best()}
        return [checkpoint.step in kept for checkpoint in checkpoints]


class Checkpoints:
    """The folder `checkpoints/<step>/` of a workdir.

    Saving is asynchronous and atomic: a run killed at any moment leaves only whole checkpoints
    behind. The newest `keep` stay, and the one with the best AP of those that were evaluated.
    Files that were changed or lost later are found by checksums.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        *,
        keep: int = 3,
        digest: str = "",
        read_only: bool = False,
        verify: bool = True,
    ) -> None:
        """Looks at `directory`, all processes of a run together; changes nothing in it yet.

        Where a run goes on, the newest checkpoint has to be whole: those that are newer and damaged
        are left out (`begin_writing`).

        Args:
          directory: local folder or `gs://` URL.
          keep: how many of the newest checkpoints to keep.
          digest: `config_digest` of the run, stored with each checkpoint.
          read_only: never write, move or delete; list damaged ones, too.
          verify: whether checksums are written and compared.

        Raises:
          FileNotFoundError: `read_only`, and there is no checkpoint.
          ValueError: there are checkpoints, and all of them are damaged.
        """
        self._directory = epath.Path(directory).absolute()
        self._keep = keep
        self._digest = digest
        self._read_only = read_only
        self._verify = verify
        self._whole: set[int] = set()
        self._saving: int | None = None
        self._failed = False
        self._manager: ocp.CheckpointManager | None = None
        if read_only and not self._directory.exists():
            raise FileNotFoundError(f"no checkpoints in {directory}: was this run trained?")
        # What the primary process finds is what all work with.
        found = json.loads(hosts.from_primary(self._look))
        self._steps: list[int] = found["steps"]
        self._scores: dict[int, float | None] = {int(k): v for k, v in found["scores"].items()}
        self._damaged: dict[int, str] = {int(k): v for k, v in found["damaged"].items()}
        if not read_only:
            self._whole.update(self._steps[-1:])

    def begin_writing(self) -> None:
        """Makes the folder if need be, and moves what is damaged and newer than all whole away.

        It is moved to the folder `damaged` beside this one, with a warning. All processes of a run
        call it together; the first `save` does, if it was not called before.

        Raises:
          OSError: a folder cannot be made, or a checkpoint not moved.
        """
        if self._read_only:
            raise ValueError(f"{self._directory} was opened to be read only")
        if self._manager is not None:
            return
        hosts.from_primary(self._set_damaged_aside)
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_handlers=StateHandler(checksums=self._verify),
            options=ocp.CheckpointManagerOptions(
                create=True,
                cleanup_tmp_directories=True,
                lightweight_initialize=True,  # or a damaged file of metadata would be an error here
                preservation_policy=_KeepNewestAndBest(self._keep, lambda: self.best),
            ),
        )

    def save(self, step: int, state: TrainState) -> None:
        """Starts to write `state`, which may be donated to the next step at once.

        Args:
          step: the state's step.
          state: what to write.

        Raises:
          OSError: this checkpoint, or the one before, could not be written, as on a full disk.
        """
        manager = self._writable()
        self.wait()
        self._saving = step
        try:
            manager.save(
                step,
                args=SaveArgs(state),
                custom_metadata={"config_digest": self._digest},
                force=True,
            )
        except Exception as error:
            raise self._not_written(error) from error

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk.

        Raises:
          OSError: it could not be written.
        """
        if self._saving is None:
            return
        try:
            self._writable().wait_until_finished()
        except Exception as error:
            raise self._not_written(error) from error
        self._whole.add(self._saving)
        self._saving = None

    def record(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Notes the figures of an evaluation of a checkpoint, whose AP ranks it.

        Args:
          step: which, a saved one.
          metrics: of `evaluation.evaluate_coco`; without an AP if there were no objects.
        """
        self.wait()
        score = metrics.get(BEST_METRIC)
        self._scores[step] = score
        if jax.process_index() == 0:
            write_score(self._directory / str(step), score)

    def restore(self, template: TrainState, step: int | None = None) -> Any:
        """Returns a checkpoint as a `TrainState` that lies on the devices as `template` does.

        Args:
          template: a state of the same structure, or its shapes with shardings (`abstract_state`).
            The run that wrote the checkpoint may have had other devices and other shardings.
          step: which; the newest by default.

        Raises:
          FileNotFoundError: there is no such checkpoint; the message lists those that exist.
          ValueError: the checkpoint has another structure or other shapes, or is damaged.
        """
        self.wait()  # one that is listed may still be on its way to disk
        step = self.latest if step is None else step
        if step is None or step not in self.steps:
            raise FileNotFoundError(
                f"no checkpoint{'' if step is None else f' {step}'} in {self._directory}; "
                f"there are {self.steps or 'none'}"
            )
        self._check(step)
        folder = self._directory / str(step)
        state = restore_state(folder, template)
        written = read_digest(folder)
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
        return self._steps if self._manager is None else sorted(self._manager.all_steps())

    @property
    def latest(self) -> int | None:
        """The newest checkpoint's step, or None."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """Step of the checkpoint with the best AP, the newest of several, or None."""
        scores = {step: self._scores.get(step) for step in self.steps}
        ranked = [(score, step) for step, score in scores.items() if score is not None]
        return max(ranked)[1] if ranked else None

    def evaluated(self, step: int) -> bool:
        """Returns whether the evaluation of a checkpoint was recorded."""
        return step in self._scores

    def reached_preemption(self, step: int) -> bool:
        """Returns whether all processes of a multi-host run agreed to stop after this step."""
        return ocp.multihost.reached_preemption(step)

    def close(self) -> None:
        """Waits for the last write to end.

        Raises:
          OSError: it failed.
        """
        if self._manager is None:
            return
        self.wait()
        with contextlib.suppress(*([Exception] if self._failed else [])):  # it was raised before
            self._manager.close()

    def _look(self) -> str:
        """Returns steps and scores as JSON, and what is damaged and newer than all whole."""
        steps = find_steps(self._directory)
        damaged: dict[int, str] = {}
        while not self._read_only and len(damaged) < len(steps):
            step = steps[-1 - len(damaged)]
            damage = find_damage(self._directory / str(step), checksums=self._verify)
            if not damage:
                break
            damaged[step] = damage
        steps = steps[: len(steps) - len(damaged)]
        if damaged and not steps:
            lines = "\n  ".join(f"{step}: {damage}" for step, damage in damaged.items())
            raise ValueError(
                f"all checkpoints in {self._directory} are damaged:\n  {lines}\nput back sound "
                "copies of them, or use another workdir"
            )
        scores = read_scores(self._directory, steps)
        return json.dumps({"steps": steps, "scores": scores, "damaged": damaged})

    def _set_damaged_aside(self) -> str:
        """Moves the damaged checkpoints away; returns nothing to tell."""
        for step, damage in self._damaged.items():
            place = set_aside(self._directory / str(step))
            logger.warning(
                "CHECKPOINT %d IS DAMAGED and is now %s: %s. The run goes on from the next older "
                "one, %d.",
                step,
                place,
                damage,
                self._steps[-1],
            )
        return ""

    def _check(self, step: int) -> None:
        """Raises ValueError if a checkpoint is damaged, once for each."""
        if step in self._whole:
            return
        folder = self._directory / str(step)
        if damage := hosts.from_primary(lambda: find_damage(folder, checksums=self._verify)):
            others = [other for other in self.steps if other != step]
            remedy = (
                f"name another of {others}, or train on from the next older whole one by the "
                "command that trained"
                if others
                else "there is no other: bring it back from a copy, or train again"
            )
            raise ValueError(f"checkpoint {step} is damaged: {damage}; {remedy}")
        self._whole.add(step)

    def _writable(self) -> ocp.CheckpointManager:
        self.begin_writing()
        assert self._manager is not None
        return self._manager

    def _not_written(self, error: Exception) -> OSError:
        step, self._saving, self._failed = self._saving, None, True
        return OSError(
            f"the checkpoint of step {step} could not be written to {self._directory}: {error}\n"
            f"whole are those of the steps {find_steps(self._directory) or 'none'}. Is the disk "
            "full? Make room, and start the same command again to go on from the newest"
        )


def load_variables(path: epath.PathLike) -> PyTree:
    """Returns the variables to evaluate with from a checkpoint of another run, as NumPy arrays.

    Args:
      path: a workdir (its best checkpoint, or else its newest), or one `checkpoints/<step>`.

    Raises:
      FileNotFoundError: there is no checkpoint.
      ValueError: the checkpoint is damaged.
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
    if damage := hosts.from_primary(lambda: find_damage(folder)):
        raise ValueError(f"{folder} is damaged: {damage}. Name another checkpoint")
    state = read_numpy(folder)
    if "params" not in state:
        raise ValueError(
            f"{folder} holds no parameters, but {', '.join(map(str, state)) or 'none'}"
        )
    average = state.get("ema") or {}
    if average and "params" not in average:  # of version 0.1
        average = {"params": average}
    return {name: average.get(name) or state.get(name) or {} for name in ("params", "batch_stats")}
