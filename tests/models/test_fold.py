import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import FUSIONS, IPGNet, IPGTransform, ResNet, fold_fusion

WIDTH = 16  # of fewer positions than twice that, which are fused as the equations say


def variables_of(name: str, guidance_width: int, stage: int = 2, dtype=jnp.float32):
    """Variables of a backbone, as far as folding reads them: one fusion and its `ipg` module."""
    guide, main = features(guidance_width)
    init = jax.jit(FUSIONS[name](param_dtype=dtype).init)
    fusion = init(jax.random.key(2), guide, main)["params"]
    ipg = jax.eval_shape(
        functools.partial(IPGTransform(guidance_width).init, train=False),
        jax.random.key(0),
        jnp.zeros((1, 8, 8, 3)),
    )["params"]
    return {"params": {f"fusion{stage}": fusion, f"ipg{stage}": ipg}}


def features(guidance_width: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(jax.random.key(7))
    return tuple(
        jax.random.normal(key, (2, 3, 5, width))
        for key, width in zip(keys, (guidance_width, WIDTH), strict=True)
    )


@pytest.mark.parametrize("guidance_width", [4, WIDTH, 24])  # CT widens, is the identity, narrows
@pytest.mark.parametrize("name", ["sum", "concat"])
def test_folded_fusion_gives_the_same_values(name: str, guidance_width: int):
    variables = variables_of(name, guidance_width)
    folded = fold_fusion(variables)
    guide, main = features(guidance_width)
    apply = jax.jit(FUSIONS[name]().apply)
    want = apply({"params": variables["params"]["fusion2"]}, guide, main)
    got = apply({"params": folded["params"]["fusion2"]}, guide, main)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    shapes = jax.tree.map(jnp.shape, folded["params"]["fusion2"])
    assert shapes == {
        "w_f": {"kernel": (guidance_width, WIDTH)},
        "w_r": {"kernel": (WIDTH, WIDTH)},
    }
    assert set(variables["params"]["fusion2"]) == {"w_s", "w_m", "w"}  # the argument is as it was


@pytest.mark.parametrize("name", ["sum", "concat"])
def test_multiplications_by_hand(name: str):
    # Per pixel, at F's width f and R's width c: the sum has CT (f c) and three c x c matrices, the
    # concatenation one c x c more in its W; folded, both have f c + c c. Two FLOPs each.
    f, c, pixels = 24, WIDTH, 2 * 3 * 5
    variables = variables_of(name, f)

    def flops(variables) -> float:
        apply = functools.partial(FUSIONS[name]().apply, {"params": variables["params"]["fusion2"]})
        return jax.jit(apply).lower(*features(f)).compile().cost_analysis()["flops"]

    before = 2 * pixels * (f * c + (3 if name == "sum" else 4) * c * c)
    after = 2 * pixels * (f * c + c * c)
    slack = 2 * pixels * c  # the additions that XLA counts besides
    assert before <= flops(variables) <= before + slack
    assert after <= flops(fold_fusion(variables)) <= after + slack


def test_identity_start_folds_to_exact_identity():
    guide, main = features(12)
    fusion = FUSIONS["concat"](identity_init=True)
    params = fusion.init(jax.random.key(2), guide, main)["params"]
    variables = variables_of("concat", 12)
    folded = fold_fusion({"params": variables["params"] | {"fusion2": params}})
    np.testing.assert_array_equal(folded["params"]["fusion2"]["w_r"]["kernel"], np.eye(WIDTH))
    np.testing.assert_array_equal(folded["params"]["fusion2"]["w_f"]["kernel"], 0.0)


def test_types_of_parameters_are_kept():
    folded = fold_fusion(variables_of("sum", 12, dtype=jnp.bfloat16))
    for kernel in jax.tree.leaves(folded["params"]["fusion2"]):
        assert kernel.dtype == jnp.bfloat16


def test_a_backbone_takes_folded_variables_and_keeps_what_is_not_linear():
    backbone = IPGNet(
        ResNet(10), fusion=("concat", "attention"), fusion_stages=(1, 2), guidance_channels=32
    )
    images = tuple(jax.random.normal(jax.random.key(i), (1, 64 >> i, 64 >> i, 3)) for i in range(2))
    params, stats = map(random_variables(backbone, images).get, ("params", "batch_stats"))
    folded = fold_fusion({"params": {"backbone": params}, "batch_stats": stats})
    assert folded["batch_stats"] is stats
    new = folded["params"]["backbone"]
    assert set(new["fusion1"]) == {"w_f", "w_r"}
    for name in params.keys() - {"fusion1"}:
        jax.tree.map(np.testing.assert_array_equal, new[name], params[name])

    @jax.jit
    def run(params):
        # XLA leaves out the stages behind c3.
        return backbone.apply({"params": params, "batch_stats": stats}, images, train=False)["c3"]

    want, got = run(params), run(new)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def random_variables(model, images, seed: int = 0):
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), images)
    rng = np.random.default_rng(seed)

    def values(path, x):
        if "kernel" not in jax.tree_util.keystr(path):
            return rng.uniform(0.5, 1.5, x.shape).astype(np.float32)
        return rng.normal(0, np.sqrt(1 / np.prod(x.shape[:-1])), x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(values, shapes)


@pytest.mark.parametrize("name", ["product", "attention"])
def test_what_is_not_linear_does_not_fold(name: str):
    with pytest.raises(ValueError, match=r"not linear; .*\['fusion2'\]"):
        fold_fusion(variables_of(name, WIDTH))


def test_what_has_no_fusion_does_not_fold():
    with pytest.raises(ValueError, match="fusions here are none"):
        fold_fusion({"params": {"backbone": {"conv1": {"kernel": np.zeros((1, 1, 3, 4))}}}})
    with pytest.raises(ValueError, match="takes"):
        fold_fusion(variables_of("sum", WIDTH)["params"])
