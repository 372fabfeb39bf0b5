"""Random choice of the anchors or proposals that enter a loss, with static shapes."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int, Key, UInt32

from ipg_jax.ops.matching import MatchState
from ipg_jax.types import Array


@functools.partial(jax.jit, static_argnames=("num", "positive_fraction"), inline=True)
def sample_matches(
    rng: Key[jax.Array, ""] | UInt32[Array, "2"],
    states: Int[Array, " a"],
    num: int,
    positive_fraction: float,
) -> tuple[Int[Array, " num"], Bool[Array, " num"]]:
    """Draws positives and negatives without replacement.

    As many positives as there are, up to `int(num * positive_fraction)`; the rest of the `num`
    are negatives, as far as there are any (Ren et al., "Faster R-CNN", 2015, section 3.1.3).

    Args:
      rng: a PRNG key.
      states: values of `MatchState`.
      num: how many to draw; may be larger than `a`.
      positive_fraction: the largest fraction of positives, in [0, 1].

    Returns:
      Int32 `[num]`, distinct indices into `states`, positives first; and bool `[num]`, False for
      the unused slots at the end, whose index is 0.

    Raises:
      ValueError: `positive_fraction` is outside [0, 1].
    """
    if not 0 <= positive_fraction <= 1:
        raise ValueError(f"positive_fraction must be in [0, 1], got {positive_fraction}.")
    size = states.shape[0]
    max_positive = int(num * positive_fraction)
    priority = jax.random.uniform(rng, (size,))

    def draw(state: MatchState, limit: int) -> tuple[jax.Array, jax.Array]:
        """Random indices with this state, padded to `num`, and how many there are to use."""
        candidate = states == state
        _, indices = jax.lax.top_k(jnp.where(candidate, priority, -1.0), min(limit, size))
        indices = jnp.pad(indices, (0, num - indices.shape[0]))
        return indices, jnp.minimum(jnp.sum(candidate, dtype=jnp.int32), limit)

    positives, num_positive = draw(MatchState.POSITIVE, max_positive)
    negatives, num_negative = draw(MatchState.NEGATIVE, num)
    slots = jnp.arange(num, dtype=jnp.int32)
    indices = jnp.where(slots < num_positive, positives, negatives[slots - num_positive])
    valid = slots < num_positive + num_negative
    return jnp.where(valid, indices, 0), valid
