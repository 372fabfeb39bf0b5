"""What is in the programs: jaxprs, StableHLO and compiled HLO.

These tests know how JAX and XLA write programs, and may need a change with a new version of them.
"""

import collections
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from forms import every_form
from jax.extend.core import jaxprs_in_params

from ipg_jax import kernels
from ipg_jax.kernels import (
    conv2d,
    dense_focal_loss,
    packed_conv2d,
    relu,
    relu_max_pool,
    stem_conv,
)
from ipg_jax.models import FPN, IPGNet, ResNet, RetinaNet, RetinaNetHead
from ipg_jax.types import PackedImage

pytestmark = pytest.mark.compiler_text


def energy(function):
    """Returns the sum of squares of a function's results, and its gradients by its arguments."""

    def loss(*args):
        return sum(jnp.sum(jnp.sin(y)) for y in jax.tree.leaves(function(*args)))

    return lambda *args: jax.value_and_grad(loss, argnums=tuple(range(len(args))))(*args)


def operations(traced, platform):
    """Returns how often each operation is in the program for a platform."""
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    found = collections.Counter(re.findall(r"= \"?(?:stablehlo|chlo)\.(\w+)", text))
    # A choice by platform is lowered as one of a single case, and takes zeros along.
    for name in ("case", "constant", "broadcast_in_dim"):
        found.pop(name, None)
    return found


def zeros(*shape, dtype=jnp.float32):
    return jnp.zeros(shape, dtype)


def packed_by_references(x, kernel):
    """Packed columns, whichever form the convolution within has."""
    with kernels.use({"conv2d": "reference"}):
        return packed_conv2d(x, kernel)


FOCAL = zeros(2, 2, 1, 3), zeros(2, 2, 1, dtype=jnp.int32), zeros(2, 2, 1, dtype=bool)
KERNELS = {  # the function, its arguments, and where its fast form is known to be faster
    "convolution": (
        functools.partial(conv2d, padding=1),
        (zeros(1, 8, 8, 4), zeros(3, 3, 4, 4)),
        ("cpu",),
    ),
    "focal": (lambda x: dense_focal_loss(x, *FOCAL[1:]), FOCAL[:1], ("cpu", "tpu")),
    "packed": (packed_by_references, (zeros(1, 4, 4, 8), zeros(3, 3, 4, 4)), ("tpu",)),
    "pooling": (lambda x: relu_max_pool(x, 3), (zeros(1, 4, 4, 8),), ("cpu", "tpu")),
    "relu": (relu, (zeros(4, 8),), ("cpu", "tpu")),
}


@pytest.mark.parametrize("name", KERNELS)
def test_platforms_have_the_form_that_is_faster_there(name):
    function, args, platforms = KERNELS[name]

    def traced(form):
        with kernels.use(form):
            return jax.jit(energy(function)).trace(*args)

    either, reference, fast = map(traced, (None, "reference", "fast"))
    for platform in ("cpu", "tpu", "cuda", "rocm"):
        want, other = (fast, reference) if platform in platforms else (reference, fast)
        got = operations(either, platform)
        assert got == operations(want, platform), platform
        assert got != operations(other, platform), platform


@functools.cache
def make_detector():
    """Returns the loss of a small guided RetinaNet, and its parameters."""
    detector = RetinaNet(
        IPGNet(ResNet(10, base_channels=4), fusion="attention", fusion_stages=(2,)),
        FPN(("c3", "c4"), channels=8, extra_levels=1),
        RetinaNetHead(num_classes=2, num_anchors=1, channels=8, num_convs=1),
    )
    pyramid = zeros(1, 32, 32, 3), zeros(1, 16, 16, 3)
    variables = jax.eval_shape(
        functools.partial(detector.init, train=True), jax.random.key(0), pyramid
    )
    variables = jax.tree.map(lambda x: jnp.full(x.shape, 0.5, x.dtype), variables)

    def loss(params):
        outputs, _ = detector.apply(
            variables | {"params": params}, pyramid, train=True, mutable=["batch_stats"]
        )
        labels, valid = zeros(4, 4, 1, dtype=jnp.int32), jnp.ones((4, 4, 1), bool)
        focal = dense_focal_loss(outputs[0].logits.reshape(4, 4, 1, 2), labels, valid)
        return focal + sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(outputs))

    return jax.jit(loss), jax.jit(jax.value_and_grad(loss)), variables["params"]


@functools.cache
def trace_detector(implementation):
    """Returns the traced loss of a detector, and the traced gradient."""
    *functions, params = make_detector()
    with kernels.use(implementation):
        return tuple(function.trace(params) for function in functions)


def primitives(jaxpr):
    """Returns the names of all primitives of a program."""
    names = set()
    for equation in jaxpr.eqns:
        names.add(equation.primitive.name)
        for inner in jaxprs_in_params(equation.params):
            names |= primitives(inner)
    return names


RULES = {"platform_index", "cond", "optimization_barrier", "custom_jvp_call", "custom_vjp_call"}


def test_a_detector_of_references_has_no_rules_of_its_own():
    for traced in trace_detector("reference"):
        used = primitives(traced.jaxpr.jaxpr)
        assert "conv_general_dilated" in used
        assert not used & RULES
    # All of which are found where they are.
    assert set.union(*(primitives(x.jaxpr.jaxpr) for x in trace_detector(None))) >= RULES


def test_a_detector_of_references_is_differentiated_forwards_and_exported():
    loss, gradient, params = make_detector()
    with kernels.use("reference"):
        value, slope = jax.eval_shape(lambda p: jax.jvp(loss, (p,), (p,)), params)
        assert value.shape == slope.shape == ()
        for platforms in (("cpu",), ("cuda", "tpu")):
            exported = jax.export.export(gradient, platforms=platforms)(params)
            assert jax.export.deserialize(exported.serialize()).platforms == platforms


def test_a_gpu_gets_the_references():
    (_, either), (_, reference) = trace_detector(None), trace_detector("reference")
    got, want = (operations(traced, "cuda") for traced in (either, reference))
    assert not got["optimization_barrier"]
    for name in ("convolution", "dot_general", "reduce_window", "select_and_scatter"):
        assert got[name] == want[name], name
    assert want["convolution"] > 50
    assert want["select_and_scatter"] == want["reduce_window"] == 2  # of the stem and of `ipg2`
    assert operations(either, "tpu")["optimization_barrier"]


@every_form
@pytest.mark.parametrize(
    ("function", "args"),
    [
        (functools.partial(conv2d, padding=1), KERNELS["convolution"][1]),
        (functools.partial(conv2d, padding=1), (zeros(1, 2, 2, 4), zeros(3, 3, 4, 4))),
        (functools.partial(conv2d, padding=1), (zeros(1, 20, 20, 64), zeros(3, 3, 64, 64))),
        (conv2d, (zeros(1, 8, 8, 4), zeros(1, 1, 4, 4))),
        (packed_conv2d, (zeros(1, 8, 8, 4), zeros(3, 3, 2, 4))),
        (
            functools.partial(stem_conv, strides=2, padding=3),
            (PackedImage(zeros(1, 8, 8, 48)), zeros(7, 7, 3, 4)),
        ),
        (
            functools.partial(stem_conv, strides=4, padding=0),
            (PackedImage(zeros(1, 8, 8, 48)), zeros(4, 4, 3, 4)),
        ),
    ],
    ids=["convolution", "patches", "tiles", "product", "packed", "stem", "patchify"],
)
def test_the_precision_is_that_of_all_products(function, args, implementation):
    asked = functools.partial(function, precision=jax.lax.Precision.HIGHEST)
    text = functools.partial(asked, implementation=implementation)
    program = str(jax.make_jaxpr(energy(text))(*args))
    precisions = re.findall(r" precision=(.*)", program)
    assert precisions
    assert {p.count("HIGHEST") or p for p in precisions} <= {1, 2}, precisions


def test_maps_smaller_than_the_kernel_are_multiplied():
    def is_convolved(side, **options):
        function = energy(functools.partial(conv2d, padding=1, **options))
        program = jax.jit(function).lower(zeros(2, side, side, 4), zeros(3, 3, 4, 4)).compile()
        return "convolution(" in program.as_text()

    assert not is_convolved(2)
    assert is_convolved(3)
    assert not is_convolved(4, strides=2)
    assert is_convolved(6, strides=2)


@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_in_loops_are_of_the_kind_that_cpus_are_fast_with(strides):
    def kinds(convolve):
        gradients = lambda k, xs: jax.lax.map(lambda x: energy(convolve)(x, k), xs)  # noqa: E731
        program = jax.jit(gradients).lower(zeros(3, 3, 4, 8), zeros(3, 2, 16, 16, 4)).compile()
        return set(re.findall(r" convolution\(.* dim_labels=([^ ,]+)", program.as_text()))

    def of_flax(x, kernel):
        layer = nn.Conv(8, (3, 3), strides=strides, padding=1, use_bias=False)
        return layer.apply({"params": {"kernel": kernel}}, x)

    own = functools.partial(conv2d, strides=strides, padding=1)
    assert kinds(own) == {"b01f_01io->b01f"}
    assert len(kinds(of_flax)) > 1


def test_fewer_multiplications_where_they_pay():
    def tiles(shape, *, mesh=None, **options):
        """Returns how often the convolution by tiles is in a program and its gradient."""
        padding = options.get("dilation", 1)
        function = energy(
            functools.partial(conv2d, padding=padding, implementation="fast", **options)
        )

        def traced(x, kernel):
            if mesh is None:
                return function(x, kernel)
            with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
                return function(x, kernel)

        program = jax.make_jaxpr(traced)(zeros(*shape), zeros(3, 3, shape[-1], 64))
        return str(program).count("name=convolve_3x3")

    assert tiles((1, 20, 20, 64)) == 2  # forward, and the gradient by the input
    assert tiles((1, 10, 20, 64)) == 0  # few tiles
    assert tiles((1, 20, 20, 32)) == 0  # few channels
    assert tiles((1, 20, 20, 64), strides=2) == 0
    assert tiles((1, 20, 20, 64), dilation=2) == 0
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    assert tiles((1, 20, 20, 64), mesh=mesh) == 0


def test_the_gradient_of_a_relu_needs_no_input():
    """Nor does XLA go back to it, as it does from `max(x, 0) > 0` to `x > 0`."""

    def compared(function):
        program = jax.jit(energy(function)).lower(zeros(8, 8)).compile()
        return "".join(line for line in program.as_text().splitlines() if " compare(" in line)

    assert "direction=NE" in compared(relu)
    assert "direction=GT" not in compared(relu)
    assert "direction=GT" in compared(jax.nn.relu)
