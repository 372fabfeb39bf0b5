"""The two programs of a run: one training step and one prediction step, jitted over the mesh."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Float

from ipg_jax import kernels
from ipg_jax.training.sharding import replicated
from ipg_jax.training.state import TrainState
from ipg_jax.types import Array, Batch, Detections, PyTree

Metrics: TypeAlias = dict[str, Float[Array, ""]]
LossFn: TypeAlias = Callable[..., tuple[Float[Array, ""], tuple[Metrics, PyTree]]]
PredictFn: TypeAlias = Callable[[PyTree, Any, Any], Detections]
TrainStep: TypeAlias = Callable[[TrainState, PyTree, jax.Array], tuple[TrainState, Metrics]]
PredictStep: TypeAlias = Callable[[PyTree, Batch], tuple[Detections, Batch]]


def split_batch(batch: PyTree, parts: int) -> PyTree:
    """Returns `batch` with a new leading axis of `parts` micro-batches.

    Micro-batch `j` has the rows `j, j + parts, ...`, so that every device keeps the rows it has.
    """

    def split(array: Array) -> Array:
        rows = array.reshape(array.shape[0] // parts, parts, *array.shape[1:])
        return jnp.swapaxes(rows, 0, 1)

    return jax.tree.map(split, batch)


class Policy(NamedTuple):
    """The precision of a step.

    Attributes:
      compute_dtype: what kernels are computed with.
    """

    compute_dtype: Any

    def cast(self, params: PyTree) -> PyTree:
        """Returns parameters whose kernels are in `compute_dtype`.

        Cast once, and not at each use, the gradient of a kernel that several levels share is one
        sum before the devices exchange it.
        """

        def cast(path: Any, x: Array) -> Array:
            return x.astype(self.compute_dtype) if path[-1].key == "kernel" else x

        return jax.tree_util.tree_map_with_path(cast, params)


@contextlib.contextmanager
def of_mesh(mesh: Mesh) -> Iterator[None]:
    """Tells `ipg_jax.kernels` what devices the programs that are traced in this context are for."""
    platform = mesh.devices.flat[0].platform
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), kernels.lowered_for(platform):
        yield


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    schedule: optax.Schedule | None = None,
    policy: Policy | None = None,
    placement: TrainState | NamedSharding | None = None,
    accumulation: int = 1,
    num_images: Callable[[PyTree], Float[Array, ""]] | None = None,
    ema_decay: float | None = None,
) -> TrainStep:
    """Returns `step(state, batch, rng) -> (state, metrics)`; the state is donated.

    Losses are means over the global batch, whatever the mesh. With `accumulation`, gradients and
    metrics are means over micro-batches that run one after another, weighted by their
    `num_images`: those of the whole batch, where the loss is a mean over these images. Batch norm
    sees each micro-batch by itself.

    Args:
      loss_fn: `loss_fn(variables, batch, rng=rng)` returns the loss, and metrics and new statistics
        beside it: `DetectionTask.loss_and_updates`, or any other of this form.
      optimizer: how to train.
      mesh: where; batches come sharded by `shard_batch`.
      schedule: the optimizer's learning rate, to be reported as `learning_rate`.
      policy: types of the kernels; by default those of the parameters.
      placement: how the state lies on the mesh (`state_sharding`); by default every device holds
        all of it. Divided parameters are gathered where they are used.
      accumulation: micro-batches per step.
      num_images: over how many images of a micro-batch `loss_fn` takes its mean; by default all
        micro-batches have equally many.
      ema_decay: of the average of variables, for a state that keeps one; in step `t`, from 0 on, at
        most `(1 + t) / (10 + t)`, as TensorFlow's `ExponentialMovingAverage` has it.

    Raises:
      ValueError: (of the step) the state keeps an average, and there is no `ema_decay`.
    """
    placement = replicated(mesh) if placement is None else placement
    of_params = placement.params if isinstance(placement, TrainState) else placement

    def gradients(params: PyTree, batch_stats: PyTree, batch: PyTree, rng: jax.Array) -> Any:
        def loss(params: PyTree) -> Any:
            return loss_fn({"params": params, "batch_stats": batch_stats}, batch, rng=rng)

        # Gathered parameters keep activations divided by image alone. The sum of their gradients
        # over the images goes to whoever holds the parameters (a reduce-scatter). Without the
        # constraint on the whole sum, XLA:TPU divides each convolution into a loop of messages.
        cast = policy.cast(params) if policy else params
        whole = jax.lax.with_sharding_constraint(cast, replicated(mesh))
        (_, (metrics, updates)), grads = jax.value_and_grad(loss, has_aux=True)(whole)
        grads = jax.lax.with_sharding_constraint(grads, replicated(mesh))
        grads = jax.lax.with_sharding_constraint(grads, of_params)
        grads = jax.tree.map(lambda x, p: x.astype(p.dtype), grads, params)
        return grads, metrics, batch_stats | updates

    def accumulated(params: PyTree, batch_stats: PyTree, batch: PyTree, rng: jax.Array) -> Any:
        def body(carry: tuple[PyTree, PyTree], part: tuple[PyTree, jax.Array]) -> Any:
            batch_stats, sums = carry
            grads, metrics, batch_stats = gradients(params, batch_stats, *part)
            images = num_images(part[0]) if num_images else jnp.float32(1)
            sums = jax.tree.map(
                lambda total, x: total + images * x.astype(total.dtype), sums, grads
            )
            return (batch_stats, sums), (metrics, images)

        parts = (split_batch(batch, accumulation), jax.random.split(rng, accumulation))
        zeros = jax.tree.map(lambda x: jnp.zeros_like(x, jnp.float32), params)
        (batch_stats, sums), (metrics, images) = jax.lax.scan(body, (batch_stats, zeros), parts)
        total = jnp.maximum(images.sum(), 1.0)
        grads = jax.tree.map(lambda x, p: (x / total).astype(p.dtype), sums, params)
        return grads, jax.tree.map(lambda x: (images * x).sum() / total, metrics), batch_stats

    def step(state: TrainState, batch: PyTree, rng: jax.Array) -> tuple[TrainState, Metrics]:
        compute = gradients if accumulation == 1 else accumulated
        with of_mesh(mesh):
            grads, metrics, batch_stats = compute(
                state.params, state.batch_stats, batch, jax.random.fold_in(rng, state.step)
            )
        metrics["grad_norm"] = optax.tree.norm(grads)
        if schedule is not None:
            metrics["learning_rate"] = schedule(state.step)
        # Optax mixes weak types in its bias corrections, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            if ema_decay is None:
                raise ValueError("the state keeps an average of its variables: pass ema_decay=")
            # The first steps count for less: a short run would else evaluate what it began with.
            count = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
            # In this form what does not change, as a frozen norm, is its own average to the bit.
            ema = jax.tree.map(
                lambda old, new: old + (1 - decay).astype(new.dtype) * (new - old),
                ema,
                {"params": params, "batch_stats": batch_stats},
            )
        state = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            ema=ema,
        )
        return state, metrics

    return jax.jit(step, donate_argnums=0, out_shardings=(placement, replicated(mesh)))


def make_predict_step(predict_fn: PredictFn, mesh: Mesh) -> PredictStep:
    """Returns `predict(variables, batch)`, whose results every process holds whole.

    These are the detections, in pixels of the network input, and the batch without its pyramid.

    Args:
      predict_fn: `predict_fn(variables, pyramid, image_size)`: `DetectionTask.predict`.
      mesh: where; batches come sharded by `shard_batch`.
    """

    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    def predict(variables: PyTree, batch: Batch) -> tuple[Detections, Batch]:
        variables = jax.lax.with_sharding_constraint(variables, replicated(mesh))
        with of_mesh(mesh):
            detections = predict_fn(variables, batch.pyramid, batch.image_size)
        return detections, batch.replace(pyramid=())

    return predict
