"""Seconds of a training step and of inference, as ratios to torchvision's in the same run.

    python benchmarks/train_step.py [--torch_python=PYTHON] [--rounds=5]

RetinaNet ResNet-50 FPN, 91 classes, batch norm, one image of 640x640, float32, on whatever JAX runs
on (torch: the CPU). A round times every contestant once, after one round of warming up; the median
over the rounds counts.
"""

import json
import pathlib
import statistics
import time
from collections.abc import Callable

import jax
import numpy as np
from absl import app, flags
from torch_side import TorchSide

from configs import retinanet_ipg, retinanet_resnet
from ipg_jax import Batch, build_task
from ipg_jax.training.build import build_optimizer
from ipg_jax.training.sharding import make_mesh, replicated, shard_batch
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import make_train_step

TORCH_PYTHON = flags.DEFINE_string("torch_python", None, "Interpreter with torchvision.")
ROUNDS = flags.DEFINE_integer("rounds", 5, "Timed rounds.")
SIDE = 640


def contestants(config) -> tuple[Callable[[], float], Callable[[], float]]:
    """Returns functions that take one training step, and predict once, and give the seconds."""
    config.unlock()
    config.model.num_classes = 91
    config.model.dtype = "float32"
    config.eval.max_detections = 300  # torchvision's
    task = build_task(config)
    optimizer, schedule = build_optimizer(config, num_steps=1000, steps_per_epoch=100.0)
    mesh = make_mesh()
    state = jax.jit(
        lambda key: TrainState.create(task.init(key), optimizer, ema=False),
        out_shardings=replicated(mesh),
    )(jax.random.key(0))
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (1, 8, 2)).astype(np.float32)
    batch = shard_batch(
        mesh,
        Batch(
            pyramid=tuple(
                rng.integers(0, 256, (1, SIDE >> i, SIDE >> i, 3), np.uint8)
                for i in range(task.pyramid_levels)
            ),
            boxes=np.concatenate([corners, corners + 100], axis=-1),
            labels=np.arange(8, dtype=np.int32)[None],
            valid=np.ones((1, 8), bool),
            ignore=np.zeros((1, 8), bool),
            image_size=np.full((1, 2), SIDE, np.int32),
            scale=np.ones((1, 2), np.float32),
            image_id=np.zeros(1, np.int32),
            weight=np.ones(1, np.float32),
        ),
    )
    step = make_train_step(task, optimizer, schedule, mesh)
    run = jax.jit(task.predict)
    variables = jax.tree.map(lambda x: x.copy(), state.variables)

    def train() -> float:
        nonlocal state
        begin = time.perf_counter()
        state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin

    def predict() -> float:
        begin = time.perf_counter()
        jax.block_until_ready(run(variables, batch.pyramid, batch.image_size))
        return time.perf_counter() - begin

    return train, predict


def main(_: list[str]) -> None:
    """Runs the comparison and prints a table and a JSON line."""
    torch = TorchSide(
        str(pathlib.Path(__file__).with_name("train_step_torch.py")), TORCH_PYTHON.value
    )
    plain_train, plain_predict = contestants(retinanet_resnet.get_config())
    guided_train, guided_predict = contestants(retinanet_ipg.get_config())
    runs = {
        "torchvision train": lambda: torch.ask("train"),
        "plain train": plain_train,
        "guided train": guided_train,
        "torchvision predict": lambda: torch.ask("predict"),
        "plain predict": plain_predict,
        "guided predict": guided_predict,
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(ROUNDS.value + 1):
        for name, run in runs.items():
            value = run()
            if index:
                seconds[name].append(value)
    torch.close()
    median = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in median.items():
        reference = median[f"torchvision {name.split()[1]}"]
        print(f"{name:22s} {value:7.3f} s   {value / reference:5.2f} x torchvision")
    print(json.dumps({"seconds": median, "rounds": ROUNDS.value}))


if __name__ == "__main__":
    app.run(main)
