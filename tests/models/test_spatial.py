import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ipg_jax.models import spatial
from ipg_jax.models.spatial import shared_product


@pytest.mark.parametrize("rows", [16, 12])  # which divide over eight devices, and do not
def test_a_shared_product_and_its_gradients_are_those_of_one_device(rows: int, monkeypatch):
    monkeypatch.setattr(spatial, "_SMALL_PRODUCT", 1)
    mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    rng = np.random.default_rng(0)
    a, b, weight = (
        rng.normal(size=shape).astype(np.float32) for shape in ((rows, 8), (8, 24), (rows, 24))
    )

    def step(a: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            total = lambda a, b: jnp.sum(shared_product(a, b) * weight)  # noqa: E731
            return jax.value_and_grad(total, argnums=(0, 1))(a, b)

    whole = NamedSharding(mesh, PartitionSpec())
    arguments = jax.device_put((a, b), whole)
    compiled = jax.jit(step, out_shardings=whole).lower(*arguments).compile()
    value, gradients = compiled(*arguments)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    close(value, np.sum(a @ b * weight))
    close(gradients[0], weight @ b.T)
    close(gradients[1], a.T @ weight)
    if rows == 16:  # each device computes two, and what its two add to the gradient of `b`
        products = re.findall(r"= f32\[(\d+),(\d+)\]\{1,0\} dot\(", compiled.as_text())
        assert sorted(sorted(map(int, shape)) for shape in products) == [[2, 8], [2, 24], [8, 24]]
