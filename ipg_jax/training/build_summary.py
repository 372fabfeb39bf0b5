"""How large a config's model is, found without computing or compiling anything."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from ipg_jax.images import make_geometry, padding_multiple
from ipg_jax.training.build import abstract_state, build_optimizer, build_task
from ipg_jax.training.build_checks import checked
from ipg_jax.training.sharding import make_mesh
from ipg_jax.types import Batch, PyTree, Size

MAX_BOXES = 100
"""Objects of the image that a training step is looked at with."""


class ModelSummary(NamedTuple):
    """The size of a model, and of what its training holds.

    Attributes:
      parameters: how many each part has.
      image_size: height and width of the padded image that the rest is for.
      flops: operations of the detection of one image, twice those of multiply-adds.
      state_bytes: of parameters, optimizer and averages: what a checkpoint holds, and each device
        unless `config.mesh.fsdp` divides it.
      kept_bytes: of what a training step keeps of one image until its backward pass. An upper
        limit: compilers fuse, and share, some of it.
    """

    parameters: Mapping[str, int]
    image_size: Size
    flops: float
    state_bytes: int
    kept_bytes: int


def count_parameters(variables: PyTree) -> dict[str, int]:
    """Returns the number of parameters of each part of a model, by its name."""
    return {
        name: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(part))
        for name, part in variables["params"].items()
    }


def summarize_model(config: ConfigDict) -> ModelSummary:
    """Returns the size of a config's model, for its largest images that are wider than high.

    Args:
      config: of a run.

    Raises:
      ValueError: a field holds what it may not.
    """
    config = ConfigDict(checked(config)).unlock()
    config.model.kernels = "reference"  # fast forms hide their operations, or do more of them
    config = checked(config.lock())
    task = build_task(config)
    multiple = padding_multiple(task.pyramid_levels)
    size = make_geometry(tuple(config.image_size), task.pyramid_levels, multiple).canvases[0]
    optimizer, _ = build_optimizer(config, num_steps=1, steps_per_epoch=1.0)
    one_device = make_mesh(devices=jax.devices()[:1])  # whatever config.mesh divides
    state = abstract_state(config, task, optimizer, one_device)
    batch, two = (_images(count, size, task.pyramid_levels) for count in (1, 2))
    predict = jax.jit(task.predict).lower(state.variables, batch.pyramid, batch.image_size)

    def kept(params: PyTree, variables: PyTree, batch: Batch, key: jax.Array) -> Any:
        def loss(params: PyTree) -> Any:
            return task.loss({**variables, "params": params}, batch, rng=key)[0]

        return jax.vjp(loss, params)[1]

    key = jax.eval_shape(lambda: jax.random.key(0))
    of_one, of_two = (
        _bytes(jax.eval_shape(kept, state.params, state.variables, images, key))
        for images in (batch, two)
    )
    cost = predict.cost_analysis() or {}
    return ModelSummary(
        parameters=count_parameters(state.variables),
        image_size=size,
        flops=float(cost.get("flops", math.nan)),
        state_bytes=_bytes(state),
        kept_bytes=of_two - of_one,  # without parameters, which are kept once
    )


def _bytes(tree: PyTree) -> int:
    return sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def _images(count: int, size: Size, levels: int) -> Batch:
    """A batch of padded images, without values."""

    def row(*shape: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    height, width = size
    return Batch(
        pyramid=tuple(row(height >> i, width >> i, 3, dtype=np.uint8) for i in range(levels)),
        boxes=row(MAX_BOXES, 4, dtype=np.float32),
        labels=row(MAX_BOXES, dtype=np.int32),
        valid=row(MAX_BOXES, dtype=np.bool_),
        ignore=row(MAX_BOXES, dtype=np.bool_),
        image_size=row(2, dtype=np.int32),
        scale=row(2, dtype=np.float32),
        image_id=row(dtype=np.int32),
        weight=row(dtype=np.float32),
    )
