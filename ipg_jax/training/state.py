"""What a training run carries from step to step."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import optax

from ipg_jax.types import Array, PyTree


class TrainState(flax.struct.PyTreeNode):
    """The state of a run; everything else is a function of it, the config and the seed.

    Attributes:
      step: int32, number of optimizer steps done.
      params: trainable parameters.
      batch_stats: running statistics (or frozen ones) of the norms.
      opt_state: the optimizer's.
      ema: exponential moving average of `variables`, or None.
    """

    step: Array
    params: PyTree
    batch_stats: PyTree
    opt_state: optax.OptState
    ema: PyTree | None

    @classmethod
    def create(
        cls, variables: PyTree, optimizer: optax.GradientTransformation, *, ema: bool
    ) -> TrainState:
        """Returns the state before the first step.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`.
          optimizer: whose state to start.
          ema: whether to keep an average of the variables.
        """
        params = variables["params"]
        state = cls(
            step=jnp.int32(0),
            params=params,
            batch_stats=variables["batch_stats"],
            opt_state=optimizer.init(params),
            ema=None,
        )
        # A copy: the donated state may not hold one buffer twice.
        return state.replace(ema=jax.tree.map(jnp.copy, state.variables)) if ema else state

    @property
    def variables(self) -> PyTree:
        """The variables as trained."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    @property
    def eval_variables(self) -> PyTree:
        """The variables to evaluate with: their average where it is kept."""
        return self.variables if self.ema is None else self.ema
