"""Batches with images that could not be read."""

from collections.abc import Sequence

import jax
import numpy as np

from ipg_jax import Batch


def with_blank(batch: Batch, rows: Sequence[int]) -> Batch:
    """A copy in which some rows are as the input pipeline makes of files that cannot be read."""
    batch = jax.tree.map(np.copy, batch)
    for array in (*batch.pyramid, batch.boxes, batch.labels, batch.valid, batch.weight):
        array[list(rows)] = 0
    return batch
