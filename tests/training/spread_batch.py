"""For test_processes.py: puts a batch on the devices of all processes and looks at the pieces."""

import sys

import jax
import numpy as np

from ipg_jax import Batch
from ipg_jax.training.command_line import initialize_distributed
from ipg_jax.training.sharding import make_mesh, process_rows, replicated, shard_batch

IMAGES, SIDE = 8, 32


def make_batch() -> Batch:
    """A batch whose values tell image, row and column."""

    def values(*shape: int, dtype: type = np.float32) -> np.ndarray:
        return np.arange(IMAGES * np.prod(shape, dtype=int)).reshape(IMAGES, *shape).astype(dtype)

    return Batch(
        pyramid=tuple(values(SIDE >> i, SIDE >> i, 3, dtype=np.uint8) for i in range(2)),
        boxes=values(5, 4),
        labels=values(5, dtype=np.int32),
        valid=values(5, dtype=np.bool_),
        ignore=values(5, dtype=np.bool_),
        image_size=values(2, dtype=np.int32),
        scale=values(2),
        image_id=values(dtype=np.int32),
        weight=values(),
    )


def main(space: int) -> None:
    initialize_distributed(False)
    mesh = make_mesh(space=space)
    rows = process_rows(mesh, IMAGES)
    whole = make_batch()
    spread = shard_batch(mesh, jax.tree.map(lambda x: x[rows], whole))
    for array, expected in zip(jax.tree.leaves(spread), jax.tree.leaves(whole), strict=True):
        assert array.shape == expected.shape
        for piece in array.addressable_shards:
            np.testing.assert_array_equal(piece.data, expected[piece.index])
    total = jax.jit(lambda x: x.sum(), out_shardings=replicated(mesh))(spread.image_id)
    print(f"rows {rows}, sum of ids {total}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
