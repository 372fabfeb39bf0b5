"""Which form of a kernel a program has."""

import contextlib
import functools
import inspect

import jax
import jax.numpy as jnp
import pytest
from forms import normal

from ipg_jax import kernels
from ipg_jax.kernels.dispatch import chosen, dispatch
from ipg_jax.types import PackedImage

EXPECTED = {None: {"cpu": "fast", "tpu": "reference"}} | {
    name: dict.fromkeys(("cpu", "tpu"), name) for name in ("reference", "fast")
}
"""By what is asked for, and by where the fast form is faster: the form on a CPU."""


# What the tests below call a kernel.
of = functools.partial(dispatch, name="relu")


def form(platform, implementation=None):
    """Returns which form is taken, if the fast one is faster on `platform`."""
    forms = {"reference": lambda x: x, "fast": lambda x: x + 1}
    x = of(jnp.int32(0), **forms, platforms=(platform,), implementation=implementation)
    return ("reference", "fast")[int(x)]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("implementation", ["reference", "fast", None])
def test_the_form_is_that_of_the_argument_or_of_the_platform(implementation, platform):
    assert form(platform, implementation) == EXPECTED[implementation][platform]
    with kernels.use(implementation):
        assert chosen("relu") == implementation
        assert form(platform) == EXPECTED[implementation][platform]


def test_several_platforms():
    forms = {"reference": lambda x: x, "fast": lambda x: x + 1}
    assert of(jnp.int32(0), **forms, platforms=("tpu", "cpu")) == 1
    assert of(jnp.int32(0), **forms, platforms=()) == 0


@pytest.mark.parametrize(("platform", "want"), [("tpu", "fast"), ("gpu", "reference")])
def test_programs_for_a_known_platform_have_its_form_alone(platform, want):
    def function(x):
        return of(x, reference=lambda x: x, fast=lambda x: x + 1, platforms=("cpu", "tpu"))

    with kernels.lowered_for(platform):
        text = str(jax.make_jaxpr(function)(jnp.int32(0)))
        assert ("add" in text) == (want == "fast")
        assert "platform_index" not in text
        with kernels.use("reference"):
            assert form(platform) == "reference"
    assert "platform_index" in str(jax.make_jaxpr(function)(jnp.int32(0)))


@pytest.mark.parametrize("platforms", [("gpu",), ("cpu", "tpu")])
@pytest.mark.parametrize("known", [True, False])
def test_a_form_for_gpus_is_taken_there_alone(platforms, known):
    @jax.jit
    def function(x):
        return of(x, reference=lambda x: x, fast=lambda x: x + 1, platforms=platforms)

    with kernels.lowered_for("gpu") if known else contextlib.nullcontext():
        lowered = function.trace(jnp.int32(0)).lower(lowering_platforms=("cuda",))
    assert ("stablehlo.add" in lowered.as_text()) == ("gpu" in platforms)


def test_the_argument_wins():
    with kernels.use("reference"):
        assert form("tpu", "fast") == "fast"
    with kernels.use("fast"):
        assert form("cpu", "reference") == "reference"


def test_nested_use():
    with kernels.use("reference"):
        with kernels.use("fast"):
            assert form("tpu") == "fast"
            with kernels.use(None):  # by platform again
                assert form("tpu") == "reference"
                assert form("cpu") == "fast"
            assert form("tpu") == "fast"
        assert form("cpu") == "reference"
    assert form("cpu") == "fast"


def test_forms_of_some_kernels_leave_the_others_as_they_were():
    for outer in (None, "reference", "fast"):
        with kernels.use(outer):
            with kernels.use({"relu": "fast"}), kernels.use({"conv2d": "reference"}):
                assert chosen("relu") == "fast"
                assert chosen("conv2d") == "reference"
                assert chosen("stem_conv") == outer
                with kernels.use({"relu": None}):  # by platform
                    assert chosen("relu") is None
                with kernels.use("reference"):
                    assert {chosen(name) for name in kernels.KERNELS} == {"reference"}
            assert chosen("relu") == outer


def test_every_kernel_can_be_chosen_by_itself():
    x, taps = normal(0, 1, 4, 4, 2), normal(1, 3, 3, 2, 2)
    calls = {
        "relu": lambda: kernels.relu(x),
        "relu_max_pool": lambda: kernels.relu_max_pool(x, 2),
        "conv2d": lambda: kernels.conv2d(x, taps, padding=1),
        "packed_conv2d": lambda: kernels.packed_conv2d(kernels.pack_columns(x), taps),
        "dense_focal_loss": lambda: kernels.dense_focal_loss(
            x[0][..., None], jnp.zeros((4, 4, 2), jnp.int32), jnp.ones((4, 4, 2), bool)
        ),
        "stem_conv": lambda: kernels.stem_conv(
            PackedImage.pack(normal(2, 1, 8, 8, 3)),
            normal(3, 4, 4, 3, 2),
            strides=4,
            padding=0,
        ),
    }
    assert set(calls) == set(kernels.KERNELS)
    with kernels.use("reference"):
        plain = {name: str(jax.make_jaxpr(call)()) for name, call in calls.items()}
        for name in calls:
            with kernels.use({name: "fast"}):
                changed = {
                    each for each in calls if str(jax.make_jaxpr(calls[each])()) != plain[each]
                }
            inside = {"packed_conv2d", "stem_conv"} if name == "conv2d" else set()
            assert changed == {name} | inside


def test_unknown_kernels_are_refused():
    with pytest.raises(ValueError, match=r"kernels are conv2d, .*, not dropout, gelu"):
        inspect.unwrap(kernels.use)({"gelu": "fast", "relu": "fast", "dropout": "fast"})
    with pytest.raises(ValueError, match="not 'quick'"):
        inspect.unwrap(kernels.use)({"relu": "quick"})


def test_use_ends_with_an_error():
    with pytest.raises(RuntimeError, match="stop"), kernels.use("reference"):
        raise RuntimeError("stop")
    assert chosen("relu") is None


@pytest.mark.parametrize("name", ["plain", "", "Fast"])
def test_other_names_are_refused(name):
    # Without the tests' check of types, which would refuse them first.
    use = inspect.unwrap(kernels.use)
    ask = functools.partial(inspect.unwrap(chosen), "relu")
    message = rf"implementation is None or one of \('reference', 'fast'\), not '{name}'"
    for function in (use, ask):
        with pytest.raises(ValueError, match=message):
            function(name)


def test_a_jitted_function_is_traced_anew_under_another_switch():
    traces = []

    @jax.jit
    def function(x):
        traces.append(chosen("relu"))
        return kernels.relu(x)

    x = normal(0, 3)
    for _ in range(2):
        function(x)
        for name in ("reference", "fast"):
            with kernels.use(name):
                function(x)
    assert traces == [None, "reference", "fast"]


def test_use_within_a_jitted_function():
    inner = jax.jit(functools.partial(form_as_number, "tpu"))

    @jax.jit
    def outer(x):
        with kernels.use("fast"):
            fast = inner(x)
        return inner(x), fast

    assert outer(jnp.int32(0)) == (0, 1)


def form_as_number(platform, x):
    return of(x, reference=lambda x: x, fast=lambda x: x + 1, platforms=(platform,))
