import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax import ops
from ipg_jax.ops import MatchState

sample = jax.jit(ops.sample_matches, static_argnums=(2, 3))


def make_states(positives, negatives, ignored):
    states = np.repeat(
        np.int32([MatchState.POSITIVE, MatchState.NEGATIVE, MatchState.IGNORE]),
        [positives, negatives, ignored],
    )
    return np.random.default_rng(0).permutation(states)


@given(
    st.integers(0, 12),
    st.integers(0, 12),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.integers(0, 2**31 - 1),
)
def test_counts(positives, negatives, fraction, seed):
    states = make_states(positives, negatives, 30 - positives - negatives)
    indices, valid = map(np.asarray, sample(jax.random.key(seed), states, 8, fraction))
    chosen = indices[valid]
    expected_positives = min(positives, int(8 * fraction))
    expected_negatives = min(negatives, 8 - expected_positives)
    assert len(set(chosen.tolist())) == len(chosen) == expected_positives + expected_negatives
    assert (states[chosen[:expected_positives]] == MatchState.POSITIVE).all()
    assert (states[chosen[expected_positives:]] == MatchState.NEGATIVE).all()
    assert (indices[~valid] == 0).all()
    assert (valid[:-1] >= valid[1:]).all()


def test_every_candidate_is_as_likely():
    states = make_states(10, 20, 5)
    keys = jax.random.split(jax.random.key(0), 2000)
    indices, valid = jax.jit(jax.vmap(lambda key: ops.sample_matches(key, states, 8, 0.5)))(keys)
    assert valid.all()
    counts = np.bincount(np.ravel(indices), minlength=35)
    # 2000 draws of 4 in 10 and 4 in 20; five standard deviations.
    for state, probability in ((MatchState.POSITIVE, 0.4), (MatchState.NEGATIVE, 0.2)):
        deviation = np.sqrt(2000 * probability * (1 - probability))
        assert np.abs(counts[states == state] - 2000 * probability).max() < 5 * deviation
    assert counts[states == MatchState.IGNORE].sum() == 0


def test_more_slots_than_anchors():
    states = make_states(2, 3, 1)
    indices, valid = ops.sample_matches(jax.random.key(0), states, 10, 0.5)
    assert indices.shape == (10,)
    assert valid.sum() == 5
    indices, valid = ops.sample_matches(jax.random.key(0), np.zeros(0, np.int32), 4, 0.5)
    assert indices.shape == (4,)
    assert not valid.any()


def test_jit_equals_eager_and_keys_differ():
    states = make_states(40, 60, 0)
    eager = ops.sample_matches(jax.random.key(1), states, 20, 0.5)
    jitted = sample(jax.random.key(1), states, 20, 0.5)
    np.testing.assert_array_equal(eager[0], jitted[0])
    other, _ = ops.sample_matches(jax.random.key(2), states, 20, 0.5)
    assert (np.asarray(other) != np.asarray(eager[0])).any()


def test_fraction_is_checked():
    with pytest.raises(ValueError, match="positive_fraction"):
        ops.sample_matches(jax.random.key(0), make_states(1, 1, 1), 2, 1.5)
