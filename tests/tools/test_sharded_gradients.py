"""Every gradient of a training step on images whose height is divided, against one device.

`tools/sharded_gradients.py` compares more: whole ResNets, guidance, the heights of real images.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.kernels import relu, relu_max_pool
from ipg_jax.layers import BatchNorm, Conv, StemConv
from ipg_jax.models import PyramidBackbone
from tools.sharded_gradients import (
    make_batch,
    mesh_of,
    narrow_task,
    relative_errors,
    step_changes,
)

WIDTH = 32
ODD, EVEN = 196, 192
"""Heights: 49, 25, 13, 7, 4 and 2 rows from C2 to P7; and 48, 24, 12, 6, 3 and 2."""


class ShortBackbone(nn.Module):
    """The kinds of layers of a ResNet, few of each: its gradients compile in seconds."""

    pyramid_levels = 1
    dtype = jnp.float32

    @property
    def strides(self):
        return {"c2": 4, "c3": 8, "c4": 16, "c5": 32}

    @nn.compact
    def __call__(self, pyramid, *, train):
        x = relu_max_pool(StemConv(8, name="conv1")(pyramid[0]), window=3)
        outputs = {}
        for stage, name in enumerate(self.strides, start=1):
            strides = 1 if stage == 1 else 2
            y = Conv(8, 3, strides=strides, name=f"conv{stage + 1}")(x)
            if name == "c3":
                y = BatchNorm(name="bn3")(y, train=train)
            x = relu(y + Conv(8, 1, strides=strides, name=f"shortcut{stage}")(x))
            outputs[name] = x
        return outputs


assert isinstance(ShortBackbone(), PyramidBackbone)


@functools.cache
def prepared(detector: str, height: int, kernels: str | None):
    """Returns a task and a batch for it."""
    levels = (4, 7) if detector == "retinanet" else (4, 6)
    task = narrow_task(detector, height, WIDTH, kernels=kernels, fpn_levels=levels)
    task = dataclasses.replace(task, model=task.model.clone(backbone=ShortBackbone()))
    return task, make_batch(2, height, WIDTH)


@functools.cache
def variables(detector: str):
    """Returns noise of the size of initial values: to compile them takes longer."""
    task, _ = prepared(detector, EVEN, None)
    rng = np.random.default_rng(0)

    def noise(path, leaf):
        if leaf.ndim > 1:
            return rng.normal(0, np.prod(leaf.shape[:-1]) ** -0.5, leaf.shape).astype(leaf.dtype)
        centre = 1.0 if path[-1].key in ("scale", "var") else 0.0
        return rng.normal(centre, 0.1, leaf.shape).astype(leaf.dtype)

    shapes = jax.eval_shape(task.init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(noise, shapes)


@functools.cache
def of_one_device(detector: str, height: int):
    task, batch = prepared(detector, height, "reference")
    return step_changes(task, mesh_of(1, 1), variables(detector), batch)


@pytest.mark.parametrize(
    ("detector", "data", "space", "height", "kernels"),
    [
        ("retinanet", 2, 2, ODD, None),
        ("faster_rcnn", 1, 4, EVEN, None),
        ("cascade_rcnn", 1, 2, EVEN, "reference"),
    ],
)
def test_gradients_are_those_of_one_device(detector, data, space, height, kernels):
    task, batch = prepared(detector, height, kernels)
    got = step_changes(task, mesh_of(data, space), variables(detector), batch)
    errors = relative_errors(got, of_one_device(detector, height))
    assert max(errors.values()) < 1e-3, errors
    assert all(value.any() for path, value in got.items() if path.startswith("params/")), got
