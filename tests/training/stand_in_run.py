"""A run whose model is one number, for what is done around the steps: nothing is compiled for it.

As a script it trains for 40 steps in the folder that it is given, for `tools.random_kills`.
"""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ipg_jax import data
from ipg_jax.training import command_line
from ipg_jax.training.evaluator import Evaluation, ImageCounts
from ipg_jax.training.runs import TrainRun
from ipg_jax.training.sharding import make_mesh, replicated
from ipg_jax.training.state import TrainState
from ipg_jax.training.train import train
from ipg_jax.types import Batch

OPTIMIZER = optax.trace(0.9)


def make_batch(step: int) -> Batch:
    """A batch that knows its step."""
    return Batch(
        pyramid=(np.zeros((8, 32, 32, 3), np.uint8),),
        boxes=np.zeros((8, 1, 4), np.float32),
        labels=np.zeros((8, 1), np.int32),
        valid=np.zeros((8, 1), np.bool_),
        ignore=np.zeros((8, 1), np.bool_),
        image_size=np.full((8, 2), 32, np.int32),
        scale=np.ones((8, 2), np.float32),
        image_id=np.full(8, step, np.int32),
        weight=np.ones(8, np.float32),
    )


def make_state(value: float = 0.0) -> TrainState:
    """A state with one parameter."""
    variables = {"params": {"x": jnp.float32(value)}, "batch_stats": {}}
    return TrainState.create(variables, OPTIMIZER, ema=False)


def train_step(state: TrainState, batch: Batch, key: jax.Array) -> tuple[TrainState, dict]:
    """Adds up the steps that batches name, so that a lost or repeated one shows."""
    x = state.params["x"] * np.float32(1.1) + batch.image_id[0].astype(np.float32)
    state = state.replace(step=state.step + np.int32(1), params={"x": x})
    return state, {"loss": x, "grad_norm": np.float32(1.0)}


@dataclasses.dataclass
class StandInEvaluator:
    """Gives the parameter as its AP, and notes the steps."""

    source: data.Source
    during: Callable[[int], None] = lambda step: None
    steps: list[int] = dataclasses.field(default_factory=list)

    def __call__(self, variables: Any, step: int) -> Evaluation:
        self.during(step)
        self.steps.append(step)
        ap = float(variables["params"]["x"]) / 1e4
        images = ImageCounts(annotated=1, evaluated=1, unreadable=0)
        metrics = {"coco": {"AP": ap}}
        return Evaluation(
            images=images, metrics=metrics, results=[], samples=[], score_threshold=0.05
        )


def make_run(**changes: Any) -> TrainRun:
    """Eight steps with a checkpoint after every second and an evaluation after every third."""

    def batches(start: int):
        while True:
            yield make_batch(start := start + 1)

    mesh = make_mesh()
    source = data.DigitsSource(split="train", num_scenes=1, scene_size=64)
    shapes = jax.eval_shape(make_state)
    template = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated(mesh)), shapes
    )
    values: dict[str, Any] = {
        "config": {"seed": 0},
        "seed": 0,
        "mesh": mesh,
        "source": source,
        "image_size": (32, 32),
        "batch_size": 8,
        "batches": batches,
        "batch_records": lambda step: [(i, source.records.file_names[i]) for i in range(8)],
        "init_state": lambda key: make_state(),
        "template": template,
        "optimizer": OPTIMIZER,
        "train_step": train_step,
        "init_from": None,
        "init_missing": "",
        "init_unexpected": "",
        "num_steps": 8,
        "steps_per_epoch": 1.0,
        "max_unreadable": 0.5,
        "trackers": ("tensorboard",),
        "log_every": 1,
        "eval_every": 3,
        "checkpoint_every": 2,
        "keep_checkpoints": 2,
        "verify_checkpoints": True,
        "evaluator": StandInEvaluator(source),
    }
    return TrainRun(**values | changes)


if __name__ == "__main__":
    command_line.start()
    train(make_run(num_steps=40), sys.argv[1])
