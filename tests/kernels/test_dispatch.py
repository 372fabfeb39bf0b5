"""Which form of a kernel a program has."""

import functools
import inspect

import jax
import jax.numpy as jnp
import pytest
from forms import normal

from ipg_jax import kernels
from ipg_jax.kernels.dispatch import chosen, dispatch

EXPECTED = {None: {"cpu": "fast", "tpu": "reference"}} | {
    name: dict.fromkeys(("cpu", "tpu"), name) for name in ("reference", "fast")
}
"""By what is asked for, and by where the fast form is faster: the form on a CPU."""


def form(platform, implementation=None):
    """Returns which form is taken, if the fast one is faster on `platform`."""
    forms = {"reference": lambda x: x, "fast": lambda x: x + 1}
    x = dispatch(jnp.int32(0), **forms, platforms=(platform,), implementation=implementation)
    return ("reference", "fast")[int(x)]


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
@pytest.mark.parametrize("implementation", ["reference", "fast", None])
def test_the_form_is_that_of_the_argument_or_of_the_platform(implementation, platform):
    assert form(platform, implementation) == EXPECTED[implementation][platform]
    with kernels.use(implementation):
        assert chosen() == implementation
        assert form(platform) == EXPECTED[implementation][platform]


def test_several_platforms():
    forms = {"reference": lambda x: x, "fast": lambda x: x + 1}
    assert dispatch(jnp.int32(0), **forms, platforms=("tpu", "cpu")) == 1
    assert dispatch(jnp.int32(0), **forms, platforms=()) == 0


@pytest.mark.parametrize(("platform", "want"), [("tpu", "fast"), ("gpu", "reference")])
def test_programs_for_a_known_platform_have_its_form_alone(platform, want):
    def function(x):
        return dispatch(x, reference=lambda x: x, fast=lambda x: x + 1, platforms=("cpu", "tpu"))

    with kernels.lowered_for(platform):
        text = str(jax.make_jaxpr(function)(jnp.int32(0)))
        assert ("add" in text) == (want == "fast")
        assert "platform_index" not in text
        with kernels.use("reference"):
            assert form(platform) == "reference"
    assert "platform_index" in str(jax.make_jaxpr(function)(jnp.int32(0)))


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


def test_use_ends_with_an_error():
    with pytest.raises(RuntimeError, match="stop"), kernels.use("reference"):
        raise RuntimeError("stop")
    assert chosen() is None


@pytest.mark.parametrize("name", ["plain", "", "Fast"])
def test_other_names_are_refused(name):
    # Without the tests' check of types, which would refuse them first.
    use, ask = inspect.unwrap(kernels.use), inspect.unwrap(chosen)
    message = rf"implementation is None or one of \('reference', 'fast'\), not '{name}'"
    for function in (use, ask):
        with pytest.raises(ValueError, match=message):
            function(name)


def test_a_jitted_function_is_traced_anew_under_another_switch():
    traces = []

    @jax.jit
    def function(x):
        traces.append(chosen())
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
    return dispatch(x, reference=lambda x: x, fast=lambda x: x + 1, platforms=(platform,))
