import functools

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax import kernels as kernel_forms
from ipg_jax.models import FUSIONS, channel_transform, fold_fusion


def channel_interpolation(inputs: int, outputs: int) -> np.ndarray:
    """The channel transform as a matrix: what it makes of each channel alone."""
    return np.asarray(channel_transform(np.eye(inputs, dtype=np.float32), outputs))


def features(key: int, width: int) -> jax.Array:
    return jnp.asarray(drawn(key, 2, 3, 5, width))


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(name: str, guide_width: int = 12, width: int = 8, **kwargs):
    fusion = FUSIONS[name](**kwargs)
    guide, main = features(0, guide_width), features(1, width)
    variables = jax.jit(fusion.init)(jax.random.key(2), guide, main)
    found = jax.jit(fusion.apply)(variables, guide, main)
    return np.asarray(found), variables["params"], guide, main


def test_channel_interpolation_doubles_by_hand():
    # torch.nn.functional.interpolate([0, 1], size=4, mode="linear") is [0, 0.25, 0.75, 1]
    np.testing.assert_allclose(
        np.array([0.0, 1.0]) @ channel_interpolation(2, 4), [0, 0.25, 0.75, 1]
    )


def test_channel_interpolation_halves_by_hand():
    np.testing.assert_allclose(
        np.array([1.0, 3.0, 5.0, 9.0]) @ channel_interpolation(4, 2), [2.0, 7.0]
    )


@given(st.integers(1, 40), st.integers(1, 40))
def test_channel_interpolation_keeps_constants_and_stays_inside(inputs: int, outputs: int):
    matrix = channel_interpolation(inputs, outputs)
    np.testing.assert_allclose(matrix.sum(axis=0), 1.0, rtol=1e-6)
    assert (matrix >= 0).all()


def test_channel_transform_of_equal_width_is_the_same_array():
    x = features(0, 8)
    assert channel_transform(x, 8) is x


def kernels(params) -> dict[str, np.ndarray]:
    return {k: np.asarray(v["kernel"]) for k, v in params.items() if "kernel" in v}


def test_sum_is_equation_2():
    out, params, guide, main = run("sum")
    k = kernels(params)
    ct = np.asarray(guide) @ channel_interpolation(12, 8)
    np.testing.assert_allclose(
        out, (ct @ k["w_s"] + np.asarray(main) @ k["w_m"]) @ k["w"], rtol=1e-4, atol=1e-5
    )


def test_product_is_equation_3():
    out, params, guide, main = run("product")
    k = kernels(params)
    ct = np.asarray(guide) @ channel_interpolation(12, 8)
    x = (ct @ k["w_s"]) * (np.asarray(main) @ k["w_m"]) + np.asarray(main)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out, x, rtol=1e-4, atol=1e-4)


def test_concat_is_equation_4():
    out, params, guide, main = run("concat")
    k = kernels(params)
    ct = np.asarray(guide) @ channel_interpolation(12, 8)
    both = np.concatenate([ct @ k["w_s"], np.asarray(main) @ k["w_m"]], axis=-1)
    np.testing.assert_allclose(out, both @ k["w"], rtol=1e-4, atol=1e-5)


def test_attention_is_its_equation():
    out, params, guide, main = run("attention")
    k = kernels(params)
    ct = np.asarray(guide) @ channel_interpolation(12, 8)
    logits = np.concatenate([ct, np.asarray(main)], axis=-1) @ k["w_g"]
    gate = 1 / (1 + np.exp(-logits - np.asarray(params["w_g"]["bias"])))
    np.testing.assert_allclose(out, np.asarray(main) + gate * (ct @ k["w_s"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", FUSIONS)
def test_a_fusion_is_exported_for_any_number_of_images(name: str):
    # One image has fewer positions than twice the channels, 15 of 16, and two have more: what is
    # chosen by that must be chosen without knowing how many there are.
    out, params, guide, main = run(name)
    fusion = FUSIONS[name]()
    (batch,) = jax.export.symbolic_shape("b")
    shapes = [jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype) for x in (guide, main)]
    program = jax.export.export(jax.jit(lambda f, r: fusion.apply({"params": params}, f, r)))
    exported = program(*shapes)
    for repeats in (1, 3):
        found = exported.call(*(jnp.tile(x, (repeats, 1, 1, 1)) for x in (guide, main)))
        np.testing.assert_allclose(found, np.tile(out, (repeats, 1, 1, 1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", ["sum", "concat", "attention"])
def test_identity_init_gives_back_the_features_bit_for_bit(name: str, dtype):
    fusion = FUSIONS[name](identity_init=True, dtype=dtype)
    guide, main = features(0, 12).astype(dtype), features(1, 8).astype(dtype)
    variables = jax.jit(fusion.init)(jax.random.key(2), guide, main)
    out = jax.jit(fusion.apply)(variables, guide, main)
    assert out.dtype == dtype
    np.testing.assert_array_equal(np.asarray(out), np.asarray(main))


def evaluate(closed, *args):
    """Runs a jaxpr as an accelerator would: the operands of products are rounded, to TF32."""
    jaxpr, values = closed.jaxpr, {}
    values.update(zip(jaxpr.constvars, closed.consts, strict=True))
    values.update(zip(jaxpr.invars, args, strict=True))

    def read(atom):
        return values[atom] if isinstance(atom, jax.extend.core.Var) else atom.val

    for eqn in jaxpr.eqns:
        inputs = [read(atom) for atom in eqn.invars]
        if eqn.primitive.name in ("dot_general", "conv_general_dilated"):
            assert eqn.params["precision"] is None
            inputs = [jax.lax.reduce_precision(x, 8, 10) for x in inputs]
        if eqn.primitive.name == "jit":
            outputs = evaluate(eqn.params["jaxpr"], *inputs)
        else:
            outputs = eqn.primitive.bind(*inputs, **eqn.params)
            outputs = outputs if eqn.primitive.multiple_results else [outputs]
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


@pytest.mark.parametrize("rows", [1, 9], ids=["few positions", "many positions"])
@pytest.mark.parametrize("name", ["sum", "concat", "attention", "folded"])
def test_identity_init_is_exact_with_products_in_tf32_forward_and_backward(name: str, rows: int):
    fusion = FUSIONS["sum" if name == "folded" else name](identity_init=True)
    guide, main, gradient = (drawn(i, 1, rows, 5, width) for i, width in enumerate((6, 4, 4)))
    variables = jax.jit(fusion.init)(jax.random.key(3), guide, main)
    if name == "folded":
        variables = fold_fusion(
            {"params": {"ipg2": transformation(6), "fusion2": variables["params"]}}
        )
        variables = {"params": variables["params"]["fusion2"]}

    def both(main, gradient):
        value, pull = jax.vjp(lambda main: fusion.apply(variables, guide, main), main)
        return value, *pull(gradient)

    with kernel_forms.use("reference"):
        program = jax.make_jaxpr(both)(main, gradient)
        value, by_main = jax.jit(functools.partial(evaluate, program))(main, gradient)
    np.testing.assert_array_equal(value, main)
    np.testing.assert_array_equal(by_main, gradient)


def transformation(width: int):
    """What `fold_fusion` reads of an `IPGTransform`."""
    return {"block0": {"conv3": {"kernel": np.zeros((1, 1, 1, width))}}}


@pytest.mark.parametrize("name", ["sum", "concat", "attention"])
def test_identity_init_still_learns_from_the_guidance(name: str):
    fusion = FUSIONS[name](identity_init=True)
    guide, main = features(0, 12), features(1, 8)
    variables = jax.jit(fusion.init)(jax.random.key(2), guide, main)
    grads = jax.jit(jax.grad(lambda v: (fusion.apply(v, guide, main) ** 2).sum()))(variables)
    assert np.abs(grads["params"]["w_s"]["kernel"]).max() > 0


def test_product_cannot_start_as_the_identity():
    with pytest.raises(ValueError, match="layer norm"):
        run("product", identity_init=True)


@pytest.mark.parametrize("name", FUSIONS)
def test_each_pixel_is_fused_by_itself(name: str):
    fusion = FUSIONS[name]()
    guide, main = features(0, 12), features(1, 8)
    variables = fusion.init(jax.random.key(2), guide, main)
    whole = fusion.apply(variables, guide, main)
    pixel = fusion.apply(variables, guide[:1, 1:2, 2:3], main[:1, 1:2, 2:3])
    np.testing.assert_allclose(whole[:1, 1:2, 2:3], pixel, rtol=1e-5, atol=1e-6)
