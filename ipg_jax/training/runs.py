"""What each command line works with, built from a config once (`build_runs`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from ipg_jax.data import Source
from ipg_jax.training.evaluator import Evaluator
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import TrainStep
from ipg_jax.types import Batch, ImageId


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRun:
    """A training run.

    Attributes:
      config: the run's, as plain JSON values, for `config.json`.
      seed: of the parameters, the batches and the samples that losses are computed on.
      mesh: the devices.
      source: the training data.
      image_size: limits of the (short, long) side of the resized images, in pixels.
      batch_size: images of all devices together.
      batches: from a step to this process's rows of the batches from there on.
      batch_records: from the number of a batch, from 0, to its images (`global_batch_records`).
      init_state: from a random key to the state of a run from scratch.
      template: that state as `jax.ShapeDtypeStruct`s with their shardings on the mesh.
      optimizer: whose state the template has.
      train_step: see `steps.make_train_step`.
      init_from: a workdir, checkpoint or file of weights to start from; None for scratch.
      init_missing: see `weights.initialize`, as for the next.
      init_unexpected: the same.
      num_steps: length of the run.
      steps_per_epoch: of the training data.
      max_unreadable: largest share of unreadable images (`data.UnreadableWindow`).
      trackers: names of `trackers.TRACKERS`.
      log_every: in steps, as the next two.
      eval_every: None evaluates at the end only.
      checkpoint_every: a checkpoint is written before each evaluation too.
      keep_checkpoints: how many of the newest, besides the best.
      verify_checkpoints: whether their checksums are written and compared.
      evaluator: scores the run; None for a run that is never evaluated.
    """

    config: dict[str, Any]
    seed: int
    mesh: Mesh
    source: Source
    image_size: tuple[int, int]
    batch_size: int
    batches: Callable[[int], Generator[Batch, None, None]]
    batch_records: Callable[[int], list[tuple[ImageId, str]]]
    init_state: Callable[[jax.Array], TrainState]
    template: TrainState
    optimizer: optax.GradientTransformation
    train_step: TrainStep
    init_from: str | None
    init_missing: str
    init_unexpected: str
    num_steps: int
    steps_per_epoch: float
    max_unreadable: float
    trackers: tuple[str, ...]
    log_every: int
    eval_every: int | None
    checkpoint_every: int
    keep_checkpoints: int
    verify_checkpoints: bool
    evaluator: Evaluator | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalRun:
    """The evaluation of a run's checkpoints.

    Attributes:
      evaluator: knows the data and the devices.
      template: the state that checkpoints hold, as `jax.ShapeDtypeStruct`s with their shardings.
      verify_checkpoints: whether their checksums are compared.
    """

    evaluator: Evaluator
    template: TrainState
    verify_checkpoints: bool
