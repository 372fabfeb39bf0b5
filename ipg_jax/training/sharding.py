"""The device mesh, and how state and batches lie on it."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ipg_jax.types import Batch


def make_mesh(
    *, data: int = -1, space: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """Returns the mesh `("data", "space")` over all devices of all processes.

    Args:
      data: devices along the batch; -1 takes all that `space` leaves.
      space: devices along the image height.
      devices: other devices than those of the processes, such as those of a topology that is only
        compiled for.

    Raises:
      ValueError: the two do not multiply to the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    wanted = count // space if data == -1 else data
    if space < 1 or wanted * space != count:
        raise ValueError(
            f"mesh.data={data} and mesh.space={space} do not divide the {count} devices: "
            "their product must be the number of devices (mesh.data=-1 takes all the rest)"
        )
    return jax.make_mesh(
        (wanted, space),
        ("data", "space"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
        devices=devices,
    )


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, batch: Batch) -> Batch:
    """Returns a sharding for each array of `batch`: rows over `data`, image height over `space`."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    image = NamedSharding(mesh, PartitionSpec("data", "space"))
    shardings = jax.tree.map(lambda _: rows, batch)
    return shardings.replace(pyramid=tuple(image for _ in batch.pyramid))


def check_batch_size(mesh: Mesh, batch_size: int, accumulation: int = 1) -> None:
    """Raises ValueError unless every device gets the same number of images in each micro-batch."""
    rows = mesh.shape["data"] * accumulation
    if batch_size < 1 or batch_size % rows:
        raise ValueError(
            f"batch_size={batch_size} is not a multiple of {rows} "
            f"(mesh.data={mesh.shape['data']} x accumulation={accumulation}): "
            f"try {max(1, round(batch_size / rows)) * rows}"
        )


def shard_batch(mesh: Mesh, batch: Batch) -> Batch:
    """Places this process's rows of a batch on its devices, as part of the global batch.

    Args:
      mesh: the mesh of all processes.
      batch: NumPy arrays, rows `[p * B / P, (p + 1) * B / P)` of the global batch in process `p`.
    """
    return jax.tree.map(
        lambda array, sharding: jax.make_array_from_process_local_data(sharding, np.asarray(array)),
        batch,
        batch_sharding(mesh, batch),
    )
