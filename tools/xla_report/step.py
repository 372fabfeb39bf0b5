"""The step that a run of a config would compile. Only this file of the report knows `ipg_jax`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ipg_jax.images import make_geometry, padding_multiple
from ipg_jax.models import fold_fusion
from ipg_jax.tasks import DetectionTask
from ipg_jax.training import build, sharding, steps
from ipg_jax.training.state import TrainState
from ipg_jax.types import Batch, PackedImage

Mode = Literal["train", "predict"]


def landscape_size(config: ConfigDict) -> tuple[int, int]:
    """Returns height and width of the padded images that are wider than high."""
    multiple = padding_multiple(4, config.mesh.space)
    return make_geometry(tuple(config.image_size), 4, multiple).canvases[0]


def lower_step(
    config: ConfigDict,
    devices: Sequence[jax.Device],
    *,
    mode: Mode,
    batch_per_device: int,
    image_size: tuple[int, int],
    max_boxes: int = 100,
    fold: bool = False,
) -> jax.stages.Lowered:
    """Returns the step that a run of `config` would compile, on arguments without values.

    Args:
      config: a config of `configs/`; its `batch_size` is set.
      devices: chips, present or not, that the mesh of `config.mesh` is laid over.
      mode: the training step, or that of evaluation.
      batch_per_device: images for each device along the data axis.
      image_size: height and width of the padded images.
      max_boxes: rows for objects.
      fold: whether prediction gets variables with the fusions folded.
    """
    mesh = build.build_mesh(config, devices)
    config.batch_size = batch_per_device * sharding.batch_devices(mesh)
    accumulation = config.optimizer.accumulation if mode == "train" else 1
    sharding.check_batch_size(mesh, config.batch_size, accumulation)
    task, step, state = build_step(config, mesh, mode)
    packed = build.space_to_depth(config, mesh)
    batch = abstract_batch(
        config.batch_size, image_size, task.pyramid_levels, max_boxes, packed=packed
    )
    batch = jax.tree.map(placed, batch, sharding.batch_sharding(mesh, batch))
    replicated = sharding.replicated(mesh)
    if mode == "train":
        key = placed(jax.eval_shape(lambda: jax.random.key(0)), replicated)
        return step.lower(state, batch, key)
    variables = state.variables
    if fold:
        zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), variables)
        variables = fold_fusion(zeros)
    return step.lower(jax.tree.map(lambda x: placed(x, replicated), variables), batch)


def build_step(config: ConfigDict, mesh: Mesh, mode: Mode) -> tuple[DetectionTask, Any, TrainState]:
    """Returns the task, its jitted step and an abstract state: all that comes from `build`."""
    task = build.build_task(config)
    # The learning rate enters as numbers: any length of the run gives the same program.
    optimizer, schedule = build.build_optimizer(config, num_steps=1000, steps_per_epoch=80.0)
    state = build.abstract_state(config, task, optimizer, mesh)
    if mode == "predict":
        return task, steps.make_predict_step(task.predict, mesh), state
    placement = jax.tree.map(lambda x: x.sharding, state)
    step = build.build_train_step(config, task, optimizer, schedule, mesh, placement)
    return task, step, state


def abstract_batch(
    batch_size: int, image_size: tuple[int, int], levels: int, max_boxes: int, *, packed: bool
) -> Batch:
    """Returns the shapes of a batch of padded images with `levels` levels of their pyramid."""

    def rows(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype)

    height, width = image_size
    pyramid = tuple(
        rows(height >> level, width >> level, 3, dtype=np.uint8) for level in range(levels)
    )
    if packed:
        pyramid = jax.eval_shape(lambda images: tuple(map(PackedImage.pack, images)), pyramid)
    return Batch(
        pyramid=pyramid,
        boxes=rows(max_boxes, 4, dtype=np.float32),
        labels=rows(max_boxes, dtype=np.int32),
        valid=rows(max_boxes, dtype=np.bool_),
        ignore=rows(max_boxes, dtype=np.bool_),
        image_size=rows(2, dtype=np.int32),
        scale=rows(2, dtype=np.float32),
        image_id=rows(dtype=np.int32),
        weight=rows(dtype=np.float32),
    )


def placed(x: jax.ShapeDtypeStruct, where: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Returns `x` with a sharding."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
