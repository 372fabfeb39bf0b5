import box_strategies
import jax
import numpy as np
from hypothesis import given

from ipg_jax import ops


def slow_nwd(a, b, constant):
    """In float64, one pair at a time."""
    (xa, ya, wa, ha), (xb, yb, wb, hb) = (
        ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
        for x1, y1, x2, y2 in np.asarray([a, b], np.float64)
    )
    square = (xa - xb) ** 2 + (ya - yb) ** 2 + ((wa - wb) / 2) ** 2 + ((ha - hb) / 2) ** 2
    return np.exp(-np.sqrt(square) / constant)


def slow_divergence(a, b):
    """Of two normal distributions with means `m` and covariances `s`, in matrices."""

    def gaussian(box):
        x1, y1, x2, y2 = np.asarray(box, np.float64)
        variance = np.maximum([x2 - x1, y2 - y1], 1e-3) ** 2 / 4
        return np.array([x1 + x2, y1 + y2]) / 2, np.diag(variance)

    (ma, sa), (mb, sb) = gaussian(a), gaussian(b)
    inverse = np.linalg.inv(sb)
    ratio = np.log(np.linalg.det(sb) / np.linalg.det(sa))
    return (np.trace(inverse @ sa) + (mb - ma) @ inverse @ (mb - ma) - 2 + ratio) / 2


def test_similarity_by_hand():
    a = np.float32([[0, 0, 4, 4], [0, 0, 4, 4], [0, 0, 4, 4]])
    # The same; 3 to the right and 4 down: W = 5; the same centre, sides 6 and 8 longer: W = 5.
    b = np.float32([[0, 0, 4, 4], [3, 4, 7, 8], [-3, -4, 7, 8]])
    similarity = ops.normalized_wasserstein(a, b, 10.0)
    np.testing.assert_allclose(similarity, [1, np.exp(-0.5), np.exp(-0.5)], rtol=1e-6)


def test_divergence_by_hand():
    a = np.float32([[0, 0, 4, 4], [2, 0, 6, 4], [-2, 0, 6, 4]])
    b = np.float32([[0, 0, 4, 4]] * 3)
    # The same; a standard deviation (half a side) apart: 1/2; twice as wide: (4 - 1) / 2 - log 2.
    divergence = ops.gaussian_divergence(a, b)
    np.testing.assert_allclose(divergence, [0, 0.5, 1.5 - np.log(2)], rtol=1e-5, atol=1e-7)


@given(box_strategies.boxes(4), box_strategies.boxes(3))
def test_pairs_match_a_slow_twin(a, b):
    similarity = ops.normalized_wasserstein(a[:, None], b[None], 12.7)
    divergence = ops.gaussian_divergence(a[:, None], b[None])
    assert similarity.shape == divergence.shape == (4, 3)
    for i in range(4):
        for j in range(3):
            np.testing.assert_allclose(similarity[i, j], slow_nwd(a[i], b[j], 12.7), rtol=1e-5)
            want = slow_divergence(a[i], b[j])
            np.testing.assert_allclose(divergence[i, j], want, rtol=1e-4, atol=1e-4)


def test_gradients_are_finite_everywhere():
    a = np.float32([[1, 1, 1, 1], [0, 0, 4, 4], [0, 0, 4, 4], [1e-20, 0, 4, 4]])
    b = np.float32([[1, 1, 1, 1], [0, 0, 4, 4], [90, 90, 90, 90], [0, 0, 4, 4]])
    for function in (lambda a, b: ops.normalized_wasserstein(a, b, 12.7), ops.gaussian_divergence):
        value, pull = jax.vjp(function, a, b)
        assert np.isfinite(value).all()
        assert all(np.isfinite(x).all() for x in pull(np.ones(4, np.float32)))
