"""Recomputed activations: the same values, names and gradients, and less that is kept.

XLA:CPU undoes the recomputation (it merges equal operations), so the memory of a compiled program
says nothing here; what JAX hands from the forward to the backward pass does.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import kernels
from ipg_jax.layers import maybe_remat
from ipg_jax.models import IPGNet, ResNet, RetinaNetHead
from ipg_jax.models.backbones.resnet import Stage


def random_pyramid(side: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(2, side >> i, side >> i, 3)).astype(np.float32) for i in range(2))


def make_backbone(remat: str) -> IPGNet:
    return IPGNet(ResNet(10, base_channels=16), fusion_stages=(2,), remat=remat)


def make_stage(remat: bool) -> Stage:
    return Stage(64, num_blocks=2, strides=1, bottleneck=False, remat=remat)


def forward(module, variables, *args, **kwargs):
    """Returns the function from parameters to (outputs, new statistics)."""
    return lambda params: module.apply(
        variables | {"params": params}, *args, mutable=["batch_stats"], **kwargs
    )


def kept_bytes(module, *args, **kwargs) -> int:
    """Bytes that the backward pass needs of the forward pass, parameters and inputs included."""

    def backward(variables, *args):
        rest = {"batch_stats": variables.get("batch_stats", {})}
        return jax.vjp(forward(module, rest, *args, **kwargs), variables["params"])[1]

    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *args, **kwargs))
    kept = jax.eval_shape(backward, variables, *args)
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept))


class Net(nn.Module):
    remat: bool

    @nn.compact
    def __call__(self, x, *, train):
        del train

        def function(module, x):
            del module
            for i in range(3):
                x = jnp.sin(nn.Dense(8, name=f"dense{i}")(x))
            return x

        return maybe_remat(function, self, x, enabled=self.remat)


def test_only_the_arguments_are_kept():
    x = np.ones((64, 8), np.float32)
    plain, remat = (kept_bytes(Net(remat), x, train=True) for remat in (False, True))
    parameters = 3 * 4 * (8 * 8 + 8)
    assert remat == parameters + x.nbytes
    assert plain >= remat + 3 * x.nbytes  # what each sine reads, and what it gives


def test_less_is_kept_of_a_backbone():
    pyramid = random_pyramid(128)
    none, stages = (
        kept_bytes(make_backbone(remat), pyramid, train=True) for remat in ("none", "stages")
    )
    variables = jax.eval_shape(
        lambda: make_backbone("none").init(jax.random.key(0), pyramid, train=True)
    )
    parameters = sum(4 * x.size for x in jax.tree.leaves(variables["params"]))
    assert stages - parameters < (none - parameters) / 4


def test_less_is_kept_of_blocks_and_towers():
    x = np.ones((2, 32, 32, 64), np.float32)
    stage = [kept_bytes(make_stage(remat), x, train=True) for remat in (False, True)]
    head = [
        kept_bytes(RetinaNetHead(num_classes=2, channels=64, num_convs=2, remat=remat), (x,))
        for remat in (False, True)
    ]
    # Two convolutions and their norms in each of two blocks; two towers of two layers.
    assert stage[0] - stage[1] >= 8 * x.nbytes
    assert head[0] - head[1] >= 2 * x.nbytes


@pytest.mark.parametrize(
    ("make", "off", "on", "args", "implementation"),
    [  # whole backbones compile much faster without the forms of CPUs
        (make_backbone, "none", "stages", random_pyramid(64), "reference"),
        (make_stage, False, True, np.ones((2, 8, 8, 64), np.float32), None),
    ],
    ids=["stages", "blocks"],
)
def test_values_names_and_gradients_stay(make, off, on, args, implementation):
    plain, recomputed = make(off), make(on)

    def shapes(module):
        init = functools.partial(module.init, train=True)
        variables = jax.eval_shape(init, jax.random.key(0), args)
        return {name: variables[name] for name in ("params", "batch_stats")}

    assert shapes(recomputed) == shapes(plain)
    rng = np.random.default_rng(0)
    variables = jax.tree.map(  # kernels; and scales, offsets and statistics of norms
        lambda x: jnp.asarray(
            rng.normal(size=x.shape) / 10 if x.ndim > 1 else rng.uniform(0.5, 1, x.shape), x.dtype
        ),
        shapes(plain),
    )

    def gradient(module):
        def loss(params):
            outputs, updates = forward(module, variables, args, train=True)(params)
            return sum(jnp.square(x).mean() for x in jax.tree.leaves(outputs)), updates

        with kernels.use(implementation):
            return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * np.abs(b).max()),
        gradient(recomputed),
        gradient(plain),
    )


def test_unknown_kinds_are_refused():
    with pytest.raises(ValueError, match="remat is one of"):
        make_backbone("some")
