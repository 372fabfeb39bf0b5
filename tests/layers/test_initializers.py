import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import layers


def test_identity_matrix_by_hand():
    got = layers.identity_matrix(jax.random.key(0), (4, 2), jnp.float32)
    np.testing.assert_array_equal(got, [[1, 0], [0, 1], [1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("init", "deviation"),  # torch's, of a 3x3 kernel from 64 to 128 channels
    [
        (layers.kaiming_normal, (2 / (9 * 128)) ** 0.5),
        (layers.kaiming_uniform, (1 / (9 * 64)) ** 0.5),
        (layers.linear_uniform, (1 / (3 * 9 * 64)) ** 0.5),
        (layers.small_normal, 0.01),
    ],
)
def test_deviations_are_torchs(init, deviation):
    kernel = init(jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert float(kernel.std()) == pytest.approx(deviation, rel=0.02)
    assert float(kernel.mean()) == pytest.approx(0, abs=deviation / 50)
