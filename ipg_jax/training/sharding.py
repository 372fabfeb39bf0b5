"""The device mesh, and how state and batches lie on it."""

from __future__ import annotations

import collections
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
      ValueError: the two do not multiply to the number of devices, or a process would read parts
        of images: `space` does not divide its devices, or others have more of them.
    """
    # Ordered by process, since a process reads rows `[p B / P, (p + 1) B / P)` of the batch, whole
    # images each. `jax.make_mesh` goes by the chips' places in a TPU slice alone.
    devices = sorted(
        jax.devices() if devices is None else devices, key=lambda d: (d.process_index, d.id)
    )
    count = len(devices)
    wanted = count // space if data == -1 else data
    if space < 1 or wanted * space != count:
        raise ValueError(
            f"mesh.data={data} and mesh.space={space} do not divide the {count} devices: "
            "their product must be the number of devices (mesh.data=-1 takes all the rest)"
        )
    held = collections.Counter(device.process_index for device in devices)
    if len(set(held.values())) > 1:
        raise ValueError(f"processes with different numbers of devices: {dict(held)}")
    if held[0] % space:
        raise ValueError(
            f"mesh.space={space} does not divide the {held[0]} devices of each process, which "
            "reads whole images"
        )
    return Mesh(
        np.array(devices).reshape(wanted, space),
        ("data", "space"),
        axis_types=(jax.sharding.AxisType.Auto,) * 2,
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
