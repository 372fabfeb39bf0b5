"""Learning-rate schedules and optimizers."""

from __future__ import annotations

import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from ipg_jax.types import PyTree

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "cosine")


def make_schedule(
    learning_rate: float,
    *,
    kind: str,
    num_steps: int,
    milestones: Sequence[int] = (),
    decay: float = 0.1,
    warmup_steps: int = 0,
    warmup_factor: float = 1 / 3,
) -> optax.Schedule:
    """Returns the learning rate as a function of the number of steps done.

    The warm-up multiplies the schedule by a factor that grows linearly from `warmup_factor` at step
    0 to 1 at `warmup_steps` (the paper's section 4.1: 500 steps from 1/3).

    Args:
      learning_rate: the rate after the warm-up.
      kind: `step` multiplies by `decay` at each milestone; `cosine` goes to 0 at `num_steps`.
      num_steps: length of the run.
      milestones: steps at which the rate drops (`step` only).
      decay: factor of a drop.
      warmup_steps: length of the warm-up.
      warmup_factor: where it starts.

    Raises:
      ValueError: `kind` is unknown.
    """
    if kind == "step":
        base = optax.piecewise_constant_schedule(learning_rate, dict.fromkeys(milestones, decay))
    elif kind == "cosine":
        base = optax.cosine_decay_schedule(learning_rate, num_steps)
    else:
        raise ValueError(
            f"config.optimizer.schedule is one of {', '.join(SCHEDULES)}, not {kind!r}"
        )

    def schedule(count: jax.typing.ArrayLike) -> jax.Array:
        count = jnp.asarray(count, jnp.float32)
        if not warmup_steps:
            return jnp.asarray(base(count), jnp.float32)
        progress = jnp.minimum(count / warmup_steps, 1.0)
        return base(count) * (warmup_factor + (1 - warmup_factor) * progress)

    return schedule


def parameter_paths(params: PyTree) -> PyTree:
    """Returns a tree like `params` whose leaves are their paths, `backbone/layer1/.../kernel`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: jax.tree_util.keystr(path, simple=True, separator="/"), params
    )


def matching(params: PyTree, pattern: str) -> PyTree:
    """Returns a tree of bools: whether `pattern` (a regular expression) matches a whole path."""
    return jax.tree.map(lambda p: re.fullmatch(pattern, p) is not None, parameter_paths(params))


def no_match(field: str, pattern: str, params: PyTree) -> str:
    """Returns what to say of a field whose regular expression matches no parameter."""
    some = jax.tree.leaves(parameter_paths(params))[:3]
    return (
        f"{field}={pattern!r} matches no parameter: it is a regular expression of whole paths, "
        f"such as {', '.join(some)}"
    )


def make_optimizer(
    schedule: optax.Schedule,
    *,
    name: str,
    weight_decay: float,
    momentum: float = 0.9,
    clip_norm: float | None = None,
    no_decay: str = "",
    frozen: str = "",
) -> optax.GradientTransformation:
    """Returns the optimizer.

    `sgd` is torch's: the decay is added to the gradient before the momentum. `adamw` decouples it.

    Args:
      schedule: learning rate by step.
      name: `sgd` or `adamw`.
      weight_decay: decay of the parameters that `no_decay` does not name.
      momentum: of `sgd`.
      clip_norm: largest global norm of the gradient; None does not clip.
      no_decay: regular expression of whole parameter paths without decay.
      frozen: regular expression of whole parameter paths that are not trained.

    Raises:
      ValueError: `name` is unknown. When the state is made: `frozen` matches no parameter.
    """
    decay = optax.add_decayed_weights(
        weight_decay,
        mask=lambda params: jax.tree.map(lambda hit: not hit, matching(params, no_decay)),
    )
    parts: list[optax.GradientTransformation] = []
    if clip_norm is not None:
        parts.append(optax.clip_by_global_norm(clip_norm))
    if name == "sgd":
        parts += [decay, optax.trace(momentum)]
    elif name == "adamw":
        parts += [optax.scale_by_adam(), decay]
    else:
        raise ValueError(f"config.optimizer.name is one of {', '.join(OPTIMIZERS)}, not {name!r}")
    optimizer = optax.chain(*parts, optax.scale_by_learning_rate(schedule))
    if not frozen:
        return optimizer

    def labels(params: PyTree) -> PyTree:
        hits = matching(params, frozen)
        if not any(jax.tree.leaves(hits)):
            raise ValueError(no_match("config.optimizer.frozen", frozen, params))
        return jax.tree.map(lambda hit: "frozen" if hit else "trained", hits)

    return optax.multi_transform({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)
