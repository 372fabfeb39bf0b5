import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import IPGNet, ResNet
from ipg_jax.weights import GUIDANCE, Weights, graft, initialize, merge, model_arrays


def test_merging_is_strict_and_lists_everything():
    fresh = {"params": {"a": jnp.zeros((2,)), "b": {"c": jnp.zeros((3,))}}}
    loaded = {"params": {"a": np.ones((4,)), "d": np.ones((1,))}}
    with pytest.raises(ValueError, match=r"(?s)missing: b/c \(3,\).*unexpected: d.*a: \(4,\)"):
        merge(fresh, loaded)
    merged = merge(fresh, {"params": {"a": np.ones((2,)), "b": {"c": np.ones((3,))}}})["params"]
    assert merged["a"].dtype == jnp.float32
    np.testing.assert_array_equal(merged["b"]["c"], 1.0)


def test_exemptions_are_whole_paths():
    fresh = {"params": {"head": {"bias": jnp.full((2,), 5.0)}, "head2": {"bias": jnp.zeros((2,))}}}
    loaded = {"params": {"old": {"bias": np.ones((1,))}}}
    with pytest.raises(ValueError, match="missing: head2/bias") as error:
        merge(fresh, loaded, missing=r"head/.*", unexpected=r"old/bias")
    assert "old" not in str(error.value)
    merged = merge(fresh, loaded, missing=r"head2?/.*", unexpected=r"old/bias")
    jax.tree.map(np.testing.assert_array_equal, merged, fresh)


def test_an_exemption_never_covers_a_wrong_shape():
    fresh = {"params": {"a": jnp.zeros((2,))}}
    with pytest.raises(ValueError, match=r"a: \(3,\) instead of \(2,\)"):
        merge(fresh, {"params": {"a": np.ones((3,))}}, missing=".*", unexpected=".*")


def test_batch_norms_fit_frozen_ones_and_back():
    vectors = {name: np.full((2,), i, np.float32) for i, name in enumerate(("scale", "bias"))}
    statistics = {name: np.full((2,), i, np.float32) for i, name in enumerate(("mean", "var"), 2)}
    trained = {"params": {"bn": vectors}, "batch_stats": {"bn": statistics}}
    frozen = {"params": {}, "batch_stats": {"bn": vectors | statistics}}
    for source, target in ((trained, frozen), (frozen, trained)):
        fresh = jax.tree.map(jnp.zeros_like, target)
        jax.tree.map(np.testing.assert_array_equal, merge(fresh, source), target)


@pytest.mark.parametrize("prefix", [(), ("backbone",)])
def test_a_graft_takes_the_whole_baseline_and_keeps_the_guidance(prefix):
    def variables(value: float, stages: tuple[int, ...]):
        model = IPGNet(ResNet(10), fusion_stages=stages)
        pyramid = tuple(jnp.zeros((1, 32 >> i, 32 >> i, 3)) for i in range(4))
        shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), pyramid, train=False))
        tree = {key: shapes[key] for key in ("params", "batch_stats")}
        for name in prefix:
            tree = {key: {name: subtree} for key, subtree in tree.items()}
        return jax.tree.map(lambda x: np.full(x.shape, value, np.float32), tree)

    fresh, baseline = variables(1.0, (2, 3)), variables(2.0, ())
    grafted = model_arrays(graft(fresh, baseline))
    trained = model_arrays(baseline).keys()
    assert {path for path, x in grafted.items() if x.ravel()[0] == 2} == trained
    assert len(grafted) > len(trained)
    with pytest.raises(ValueError, match=r"(?s)unexpected: .*ipg3[ /]"):
        graft(baseline, fresh)


def test_what_a_file_never_has_starts_fresh():
    fresh = {"params": {"backbone": {"w": jnp.zeros((1,))}, "head": {"w": jnp.full((1,), 3.0)}}}
    weights = Weights({"backbone/w": np.ones((1,))}, absent=r"(?!backbone/).*")
    filled = model_arrays(initialize(fresh, weights))
    assert filled == {"backbone/w": 1.0, "head/w": 3.0}
    fresh["params"]["backbone"]["ipg2"] = {"w": jnp.full((1,), 4.0)}
    with pytest.raises(ValueError, match="missing: backbone/ipg2/w"):
        initialize(fresh, weights)
    assert model_arrays(initialize(fresh, weights, missing=GUIDANCE))["backbone/ipg2/w"] == 4.0


def test_of_many_differences_the_first_are_listed_and_the_others_counted():
    def arrays(names):
        return {"params": {n: {"scale": np.zeros(2)} for n in names}, "batch_stats": {}}

    with pytest.raises(ValueError, match="do not fit") as error:
        merge(arrays("abcdefgh"), arrays("x"))
    lines = [line.strip() for line in str(error.value).splitlines()]
    assert lines[1:6] == [f"missing: {name}/scale (2,)" for name in "abcde"]
    assert lines[6] == "... and 3 more: f/scale (1), g/scale (1), h/scale (1)"
    assert lines[7] == "unexpected: x/scale (2,)"
    assert "config.init_missing" in lines[8]
