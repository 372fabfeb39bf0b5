"""Shows wrong gradients of convolutions whose height does not divide over the devices.

    python tools/xla_sharded_height.py

Plain JAX, on eight virtual CPU devices. The rows of an image are divided over all of them. A
convolution of stride 2 leaves fewer rows than devices, and XLA's partitioner divides these over a
factor of the devices. The gradients of the convolutions that follow then come out too large: parts
of the sum over the rows are added up more than once. Results are right where the program says that
such maps are replicated, as `ipg_jax.kernels.shard_height` does.

Seen with jax 0.10.2. Once both columns show rounding errors alone, the constraint may go.
"""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

CASES = ((8, (2, 1)), (16, (2, 2, 2)), (32, (2, 2, 2, 2)), (64, (1, 2, 1)))
"""Height of the image, and stride of each convolution; the last case divides evenly."""


def gradients(
    kernels: list[jax.Array], image: jax.Array, strides: tuple[int, ...], mesh: Mesh | None
) -> list[jax.Array]:
    """Returns the gradients of a chain of 3x3 convolutions by its kernels.

    Args:
      kernels: of the convolutions.
      image: what the first one reads.
      strides: of the convolutions.
      mesh: if given, heights that do not divide over it are constrained to be replicated.
    """

    def constrain(x: jax.Array) -> jax.Array:
        if mesh is None:
            return x
        rows = "space" if x.shape[1] % mesh.shape["space"] == 0 else None
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, rows)))

    def loss(kernels: list[jax.Array]) -> jax.Array:
        x = image
        for kernel, stride in zip(kernels, strides, strict=True):
            x = jax.lax.conv_general_dilated(
                constrain(x),
                kernel,
                (stride, stride),
                ((1, 1), (1, 1)),
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
            x = jax.nn.relu(constrain(x))
        return (x**2).sum()

    return jax.grad(loss)(kernels)


def largest_errors(height: int, strides: tuple[int, ...]) -> tuple[float, float]:
    """Returns the largest relative error of any gradient, without and with the constraint."""
    mesh = jax.make_mesh((8,), ("space",), axis_types=(jax.sharding.AxisType.Auto,))
    image_key, *keys = jax.random.split(jax.random.key(0), 1 + len(strides))
    image = jax.random.normal(image_key, (2, height, 16, 3))
    kernels = [jax.random.normal(key, (3, 3, 4 if i else 3, 4)) / 4 for i, key in enumerate(keys)]
    run = jax.jit(gradients, static_argnames=("strides", "mesh"))
    want = run(kernels, image, strides, None)

    kernels = jax.device_put(kernels, NamedSharding(mesh, PartitionSpec()))
    image = jax.device_put(image, NamedSharding(mesh, PartitionSpec(None, "space")))

    def error(constrained: Mesh | None) -> float:
        got = jax.device_get(run(kernels, image, strides, constrained))
        pairs = zip(got, jax.device_get(want), strict=True)
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)

    return error(None), error(mesh)


def main() -> None:
    """Prints the errors of each case."""
    print(f"jax {jax.__version__}, {len(jax.devices())} devices along the height")
    print(f"{'heights':<22}{'error':>12}{'constrained':>14}")
    for height, strides in CASES:
        heights = height // np.cumprod([1, *strides])
        without, with_ = largest_errors(height, strides)
        print(f"{', '.join(map(str, heights)):<22}{without:>12.1e}{with_:>14.1e}")


if __name__ == "__main__":
    main()
