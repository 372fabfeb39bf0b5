"""The device mesh, and how state and batches lie on it."""

from __future__ import annotations

import collections
import logging
import math
import statistics
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ipg_jax.types import Array, Batch, PyTree

logger = logging.getLogger(__name__)

MIN_SIZE = 2**18
"""Elements of an array below which dividing it saves less memory than it costs in messages.

Together such arrays are 4 % of a RetinaNet with ResNet-50. Those of the first layers would be
gathered while these convolve the largest maps, which slows TPUs down (`docs/dev/xla_log.md`).
"""


BATCH = ("data", "fsdp")
"""The axes of the mesh that divide a batch."""


def make_mesh(
    *,
    data: int | None = None,
    fsdp: int | None = None,
    space: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """Returns the mesh `("data", "fsdp", "space")` over all devices of all processes.

    The first two divide a batch, `space` the height of images, `fsdp` parameters too.

    Args:
      data: groups of devices with a copy of the state each; by default all that the others leave.
      fsdp: neighbours that hold one copy of the state together; by default all that the others
        leave where `data` is given, else 1.
      space: devices along the image height.
      devices: other devices than those of the processes, such as those of a topology that is only
        compiled for.

    Raises:
      ValueError: the three do not multiply to the number of devices, or the processes do not have
        equally many.
    """
    devices = jax.devices() if devices is None else devices
    check_processes(devices)
    count = len(devices)
    if data is None:
        fsdp = 1 if fsdp is None else fsdp
        data = count // max(1, fsdp * space)
    elif fsdp is None:
        fsdp = count // max(1, data * space)
    if min(data, fsdp, space) < 1 or data * fsdp * space != count:
        raise ValueError(
            f"config.mesh.data={data}, config.mesh.fsdp={fsdp} and config.mesh.space={space} do "
            f"not divide the {count} devices: their product must be the number of devices (of the "
            "first two, one that is not set takes all the rest)"
        )
    return jax.make_mesh(
        (data, fsdp, space),
        (*BATCH, "space"),
        axis_types=(jax.sharding.AxisType.Auto,) * 3,
        devices=devices,
    )


def batch_devices(mesh: Mesh) -> int:
    """Returns the number of devices that divide a batch."""
    return math.prod(mesh.shape[axis] for axis in BATCH)


def check_processes(devices: Sequence[jax.Device]) -> None:
    """Raises ValueError unless every process has the same number of `devices`."""
    counts = collections.Counter(device.process_index for device in devices)
    usual = statistics.mode(counts.values())
    unusual = {process: count for process, count in sorted(counts.items()) if count != usual}
    if unusual:
        named = ", ".join(f"process {process} has {count}" for process, count in unusual.items())
        raise ValueError(
            f"{named} device(s), the others have {usual}: every process must have as many as the "
            "others. Start processes that see the same number (CUDA_VISIBLE_DEVICES, or the tasks "
            "and GPUs per node of the job), or leave the odd ones out"
        )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def all_gather(mesh: Mesh, arrays: PyTree) -> PyTree:
    """Returns the arrays with all of each on every device."""
    return jax.jit(_unchanged, out_shardings=replicated(mesh))(arrays)


def _unchanged(arrays: PyTree) -> PyTree:  # a function by name, so that JAX knows it again
    return arrays


def state_sharding(mesh: Mesh, state: PyTree, *, min_size: int = MIN_SIZE) -> PyTree:
    """Returns a sharding for each array of `state`: parameters, their average, the optimizer's.

    Each is divided over `fsdp` along its longest axis that divides: of equally long ones of a
    matrix the first, of a convolution's kernel the last. Small arrays are on every device whole.

    Args:
      mesh: where.
      state: a state, or some of its arrays, or their shapes.
      min_size: elements of the smallest array that is divided.
    """
    parts = mesh.shape["fsdp"]

    def sharding(array: Array | jax.ShapeDtypeStruct) -> NamedSharding:
        shape = array.shape
        axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
        if parts == 1 or not axes or math.prod(shape) < min_size:
            return replicated(mesh)
        axis = max(axes, key=lambda axis: (shape[axis], axis if len(shape) > 2 else -axis))
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))

    return jax.tree.map(sharding, state)


def image_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of images `[B, H, W, C]`: rows over `BATCH`, height over `space`."""
    return NamedSharding(mesh, PartitionSpec(BATCH, "space"))


def batch_sharding(mesh: Mesh, batch: Batch) -> Batch:
    """Returns a sharding for each array of `batch`: `image_sharding`, and rows over `BATCH`.

    Raises:
      ValueError: the height of a level of the pyramid does not divide over `space`.
    """
    space = mesh.shape["space"]
    heights = [level.shape[1] for level in batch.pyramid]
    arrays = jax.tree.leaves(batch.pyramid)
    if any(array.shape[1] % space for array in arrays):
        rows = heights[0] // arrays[0].shape[1]  # of pixels, in one row of an array
        raise ValueError(
            f"the pyramid's heights {heights} do not all divide over config.mesh.space={space}: "
            f"pad the images to a multiple of {rows * space * 2 ** (len(heights) - 1)} "
            "(pad_multiple)"
        )
    rows = NamedSharding(mesh, PartitionSpec(BATCH))
    shardings = jax.tree.map(lambda _: rows, batch)
    images = jax.tree.map(lambda _: image_sharding(mesh), batch.pyramid)
    return shardings.replace(pyramid=images)


def check_batch_size(
    mesh: Mesh, batch_size: int, accumulation: int = 1, *, field: str = "config.batch_size"
) -> None:
    """Raises ValueError unless every device gets the same number of images in each micro-batch.

    On TPUs, warns of a number that the compiler has no good layout for (`docs/performance.md`).

    Args:
      mesh: of the devices.
      batch_size: images of all devices.
      accumulation: micro-batches of a step.
      field: what messages call the batch size.
    """
    devices = batch_devices(mesh)
    rows = devices * accumulation
    if batch_size < 1 or batch_size % rows:
        raise ValueError(
            f"{field}={batch_size} is not a multiple of {rows} "
            f"({devices} devices x config.optimizer.accumulation={accumulation}): "
            f"try {max(1, round(batch_size / rows)) * rows}"
        )
    images = batch_size // rows
    if mesh.devices.flat[0].platform == "tpu" and images % 8:
        parts = 8 // math.gcd(images, 8)
        divisible = devices % parts == 0
        logger.warning(
            "%d image(s) at a time on each device: XLA:TPU computes on 8, and other numbers can "
            "take three times as long for each image; try %s=%d%s",
            images,
            field,
            -(-images // 8) * 8 * rows,
            f", or config.mesh.space={mesh.shape['space'] * parts}" if divisible else "",
        )


def process_rows(mesh: Mesh, batch_size: int) -> list[int]:
    """Returns which rows of a global batch this process has to provide, in ascending order.

    They need not be neighbours, as where a slice of TPUs orders its chips by their place and not
    by their host; and where `space` spans hosts, several processes provide the same rows.
    """
    per_step = batch_size // batch_devices(mesh)
    return [step * per_step + row for step in _steps_here(mesh) for row in range(per_step)]


def _steps_here(mesh: Mesh) -> list[int]:
    """Returns the places along the batch at which this process has devices."""
    here = jax.process_index()
    return [
        step
        for step, devices in enumerate(mesh.devices.reshape(batch_devices(mesh), -1))
        if any(device.process_index == here for device in devices)
    ]


def shard_batch(mesh: Mesh, batch: Batch) -> Batch:
    """Places this process's rows of a batch on its devices, as part of the global batch.

    Args:
      mesh: the mesh of all processes.
      batch: NumPy arrays, the rows that `process_rows` names, with images of the whole height.

    Raises:
      ValueError: see `batch_sharding`.
    """
    here = _steps_here(mesh)

    def place(array: Array, sharding: NamedSharding) -> jax.Array:
        per_step = len(array) // len(here)

        def part(index: Any) -> Array:
            step = (index[0].start or 0) // per_step
            start = here.index(step) * per_step
            return array[(slice(start, start + per_step), *index[1:])]

        shape = (per_step * batch_devices(mesh), *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, part)

    return jax.tree.map(place, batch, batch_sharding(mesh, batch))
