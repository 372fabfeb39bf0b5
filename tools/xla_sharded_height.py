"""Shows wrong gradients of maps whose height does not divide over the devices.

    python tools/xla_sharded_height.py

Plain JAX, on eight virtual CPU devices. The rows of an image are divided over all of them, and what
follows leaves fewer rows than devices, or no multiple of them. Two things go wrong:

* Left to itself, XLA's partitioner divides such a map over a factor of the devices. Gradients of
  convolutions beside it are too large, parts of the sum over the rows being added up twice. They
  are right where what convolutions read and give is constrained to be replicated, as
  `ipg_jax.kernels.shard_height` does.
* The gradient of a strided slice is wrong if its result is replicated, but not what it cuts. It is
  right where that is replicated, too.

Seen with jax 0.10.2. Once the first column shows rounding errors alone, the constraints may go.
"""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

from typing import TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CASES = (
    (8, (2, 1)),
    (16, (2, 2, 2)),
    (8, (1, "slice", 1)),
    (24, (1, "slice", 1)),
    (64, (1, 2, 1)),
)
"""Height of the image, and what follows; the last case divides evenly.

A number is the stride of a 3x3 convolution, `slice` takes every other row and column.
"""

CONSTRAINED = {
    "unconstrained": (),
    "convolutions": ("convolution",),
    "and slices": ("convolution", "slice"),
}
"""Of which layers the maps are constrained."""

Layers: TypeAlias = tuple[int | str, ...]


def gradients(
    kernels: list[jax.Array],
    image: jax.Array,
    layers: Layers,
    mesh: Mesh,
    constrained: tuple[str, ...],
) -> list[jax.Array]:
    """Returns the gradients of a chain of convolutions by its kernels.

    Args:
      kernels: of the convolutions.
      image: what the first one reads.
      layers: see `CASES`.
      mesh: the devices.
      constrained: next to which layers maps whose height does not divide are replicated.
    """

    def constrain(x: jax.Array, height: int, where: str) -> jax.Array:
        if where not in constrained:
            return x
        rows = "space" if height % mesh.shape["space"] == 0 else None
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, rows)))

    def loss(kernels: list[jax.Array]) -> jax.Array:
        x, remaining = image, iter(kernels)
        for layer in layers:
            if isinstance(layer, str):
                x = constrain(x, x.shape[1] // 2, "slice")[:, ::2, ::2]
                continue
            x = jax.lax.conv_general_dilated(
                constrain(x, x.shape[1], "convolution"),
                next(remaining),
                (layer, layer),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(constrain(x, x.shape[1], "convolution"))
        return (x**2).sum()

    return jax.grad(loss)(kernels)


def largest_errors(height: int, layers: Layers) -> list[float]:
    """Returns the largest relative error of any gradient, for each of `CONSTRAINED`."""
    mesh = jax.make_mesh((8,), ("space",), axis_types=(jax.sharding.AxisType.Auto,))
    image_key, *keys = jax.random.split(jax.random.key(0), 1 + len(layers))
    keys = [key for key, layer in zip(keys, layers, strict=True) if layer != "slice"]
    image = jax.random.normal(image_key, (2, height, 16, 3))
    kernels = [jax.random.normal(key, (3, 3, 4 if i else 3, 4)) / 4 for i, key in enumerate(keys)]
    run = jax.jit(gradients, static_argnames=("layers", "mesh", "constrained"))
    want = jax.device_get(run(kernels, image, layers, mesh, ()))

    kernels = jax.device_put(kernels, NamedSharding(mesh, PartitionSpec()))
    image = jax.device_put(image, NamedSharding(mesh, PartitionSpec(None, "space")))

    def error(constrained: tuple[str, ...]) -> float:
        got = jax.device_get(run(kernels, image, layers, mesh, constrained))
        pairs = zip(got, want, strict=True)
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)

    return [error(constrained) for constrained in CONSTRAINED.values()]


def main() -> None:
    """Prints the errors of each case."""
    print(f"jax {jax.__version__}, {len(jax.devices())} devices along the height")
    print(f"{'strides: rows':<40}" + "".join(f"{name:>16}" for name in CONSTRAINED))
    for height, layers in CASES:
        heights = height // np.cumprod([1, *(2 if x == "slice" else x for x in layers)])
        steps = zip(["image", *map(str, layers)], heights, strict=True)
        names = ", ".join(f"{name}: {rows}" for name, rows in steps)
        errors = "".join(f"{error:>16.1e}" for error in largest_errors(height, layers))
        print(f"{names:<40}{errors}")


if __name__ == "__main__":
    main()
