"""Boxes as Gaussians: how far apart they are, also where they do not overlap.

A box of centre `(x, y)` and sides `(w, h)` stands for the normal distribution around its centre
with the standard deviations `w / 2` and `h / 2`, as in Wang et al., "A Normalized Gaussian
Wasserstein Distance for Tiny Object Detection" (2021). Both functions broadcast: `boxes[:, None]`
against `anchors[None]` gives all pairs, and no array is larger than the result.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.ops.boxes import center_size
from ipg_jax.types import Array

_MIN_SIDE = 1e-3
"""Pixels; shorter sides count as so long in a divergence: those of padding have no logarithm."""


def normalized_wasserstein(
    a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"], constant: float
) -> Float[Array, "*#n"]:
    """Similarity by the Wasserstein distance of the boxes' Gaussians (NWD), in [0, 1].

    `exp(-W / constant)` with `W^2 = (xa - xb)^2 + (ya - yb)^2 + ((wa - wb)^2 + (ha - hb)^2) / 4`
    (the paper above, section 3.2). It is 1 for equal boxes, where the gradient is 0.

    Args:
      a: boxes.
      b: boxes.
      constant: a length in pixels, about the mean side of the objects.
    """
    xa, ya, wa, ha = center_size(a)
    xb, yb, wb, hb = center_size(b)
    squared = (xa - xb) ** 2 + (ya - yb) ** 2 + ((wa - wb) ** 2 + (ha - hb) ** 2) / 4
    apart = squared > 0
    distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, squared, 1.0)), 0.0)
    return jnp.exp(-distance / constant)


def gaussian_divergence(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*#n"]:
    """Kullback-Leibler divergence `D(a || b)` of the boxes' Gaussians, in [0, inf).

    `(wa^2 / wb^2 + ha^2 / hb^2 + 4 (xa - xb)^2 / wb^2 + 4 (ya - yb)^2 / hb^2) / 2
    + log(wb / wa) + log(hb / ha) - 1`, that of two normal distributions. It is finite for boxes
    without extent.

    Args:
      a: boxes.
      b: boxes.
    """
    xa, ya, wa, ha = center_size(a)
    xb, yb, wb, hb = center_size(b)
    wa, ha, wb, hb = (jnp.maximum(side, _MIN_SIDE) for side in (wa, ha, wb, hb))
    spread = (wa / wb) ** 2 + (ha / hb) ** 2
    offset = (2 * (xa - xb) / wb) ** 2 + (2 * (ya - yb) / hb) ** 2
    return jnp.maximum((spread + offset) / 2 + jnp.log(wb / wa) + jnp.log(hb / ha) - 1, 0.0)
