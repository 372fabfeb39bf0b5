"""Writes what version 0.1.0 (commit 298964b) wrote: checkpoint, weight file, configs, outputs.

    git worktree add /tmp/v0_1 298964b && cd /tmp/v0_1
    PYTHONPATH=. python .../tests/golden/make_v0_1.py tests/golden/v0_1

It runs with that commit's code alone. Values are multiples of 1/64, so that the files are small.
`tests/weights/test_version_0_1.py` reads them with today's.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from configs import faster_rcnn_ipg, retinanet_ipg
from ipg_jax import Batch, build_task, ops
from ipg_jax.training.build import build_optimizer
from ipg_jax.training.checkpoint import Checkpoints
from ipg_jax.training.state import TrainState
from ipg_jax.weights import Weights, save_weights


def narrow(config):
    """A model of some 0.3 million parameters, and float32."""
    config.unlock()
    config.model.base_channels = 4
    config.model.num_classes = 3
    config.model.fpn_channels = 8
    config.model.head_channels = 8
    config.model.dtype = "float32"
    return config


def retinanet():
    """R18 with batch norm and concatenations, by `configs/retinanet_ipg.py`."""
    config = narrow(retinanet_ipg.get_config("depth=18,stages=23,fusion=concat"))
    config.model.head_convs = 1
    config.optimizer.ema_decay = 0.9
    return config.lock()


def faster_rcnn():
    """R50 of five stages, frozen norms, residual products, by `configs/faster_rcnn_ipg.py`."""
    config = narrow(
        faster_rcnn_ipg.get_config("num_stages=5,stages=24,fusion=product,norm=frozen_batch_norm")
    )
    config.model.head_fc_channels = 16
    return config.lock()


def coarse(variables):
    """Multiples of 1/64, and none of the initial zeros and ones."""
    leaves, structure = jax.tree.flatten(variables)
    rng = np.random.default_rng(0)

    def value(x):
        noise = rng.normal(0, 0.05, x.shape)
        return jnp.asarray(np.round(64 * (np.asarray(x) + noise)) / 64, x.dtype)

    return jax.tree.unflatten(structure, [value(x) for x in leaves])


def make_batch(levels):
    """Two images of 128 pixels with three objects each."""
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (2, 128, 128, 3), np.uint8)
    corner = rng.uniform(0, 80, (2, 3, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(16, 48, corner.shape)], -1)
    return Batch(
        pyramid=tuple(np.asarray(level) for level in ops.image_pyramid(image, levels)),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, 3, (2, 3)).astype(np.int32),
        valid=np.ones((2, 3), bool),
        ignore=np.zeros((2, 3), bool),
        image_size=np.full((2, 2), 128, np.int32),
        scale=np.ones((2, 2), np.float32),
        image_id=np.arange(2, dtype=np.int32),
        weight=np.ones(2, np.float32),
    )


def outputs(task, variables):
    """The losses of a batch, and every output of the model."""
    batch = make_batch(task.pyramid_levels)
    _, metrics = jax.jit(task.loss)(variables, batch, rng=jax.random.key(0))
    images = ops.normalize_pyramid(batch.pyramid, batch.image_size, task.image_mean, task.image_std)
    found = jax.jit(lambda *args: task.model.apply(*args, train=False))(variables, images)
    return {f"metrics/{name}": np.asarray(x) for name, x in metrics.items()} | {
        f"outputs/{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(found))
    }


def write_config(workdir, config):
    """The file that a training run wrote."""
    workdir.mkdir(parents=True, exist_ok=True)
    text = json.dumps(json.loads(config.to_json()), indent=2)
    (workdir / "config.json").write_text(text)


def main(folder: str) -> None:
    """Writes everything into `folder`."""
    out = pathlib.Path(folder).absolute()
    config = retinanet()
    write_config(out / "retinanet", config)
    write_config(out / "faster_rcnn", faster_rcnn())
    task = build_task(config)
    variables = coarse(jax.jit(task.init)(jax.random.key(0)))
    optimizer, _ = build_optimizer(config, num_steps=10, steps_per_epoch=1.0)
    state = TrainState.create(variables, optimizer, ema=True)
    checkpoints = Checkpoints(out / "retinanet" / "checkpoints")
    checkpoints.save(0, state)
    checkpoints.close()
    np.savez_compressed(out / "retinanet.npz", **outputs(task, variables))

    task = build_task(faster_rcnn())
    variables = coarse(jax.jit(task.init)(jax.random.key(0)))
    # Exact in bfloat16, which halves the file.
    halved = jax.tree.map(lambda x: x.astype(jnp.bfloat16), variables)
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a.astype(b.dtype), b), halved, variables
    )
    save_weights(out / "faster_rcnn.safetensors", Weights.of(halved, ["a", "b", "c"]))
    np.savez_compressed(out / "faster_rcnn.npz", **outputs(task, variables))


if __name__ == "__main__":
    main(sys.argv[1])
