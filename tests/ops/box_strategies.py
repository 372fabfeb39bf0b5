"""Boxes for property tests."""

import hypothesis.extra.numpy as hnp
import numpy as np
from hypothesis import strategies as st


def boxes(n, extent=24, min_side=0):
    """Arrays of `n` boxes with whole-number corners: equal, touching and empty ones are common."""
    corners = hnp.arrays(np.int64, (n, 2), elements=st.integers(0, extent))
    sides = hnp.arrays(np.int64, (n, 2), elements=st.integers(min_side, extent))
    return st.builds(
        lambda corner, side: np.concatenate([corner, corner + side], axis=1).astype(np.float32),
        corners,
        sides,
    )


def masks(n):
    return hnp.arrays(np.bool_, (n,))
