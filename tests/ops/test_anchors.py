import jax
import numpy as np
import pytest

from ipg_jax import ops


def test_base_anchors_by_hand():
    # Ratio is height over width; ratios are the outer loop, sizes the inner one.
    np.testing.assert_array_equal(
        ops.base_anchors((32, 64), (0.25, 4.0)),
        [[-32, -8, 32, 8], [-64, -16, 64, 16], [-8, -32, 8, 32], [-16, -64, 16, 64]],
    )


def test_rounding_is_an_option():
    exact = ops.base_anchors((32,), (0.5,), rounded=False)
    np.testing.assert_allclose(exact, [[-22.627417, -11.313708, 22.627417, 11.313708]], rtol=1e-6)
    np.testing.assert_array_equal(ops.base_anchors((32,), (0.5,)), [[-23, -11, 23, 11]])
    # Halves go to the even neighbour.
    np.testing.assert_array_equal(ops.base_anchors((5, 7), (1.0,))[:, 2], [2, 4])


def test_twelve_anchors_by_hand():
    base = ops.base_anchors((4,), (1.0, 0.25))  # [-2, -2, 2, 2] and [-4, -1, 4, 1]
    anchors = ops.grid_anchors((2, 3), (16, 8), base)
    centers = [(0, 0), (8, 0), (16, 0), (0, 16), (8, 16), (16, 16)]
    expected = [
        [x + b[0], y + b[1], x + b[2], y + b[3]]
        for x, y in centers
        for b in ([-2, -2, 2, 2], [-4, -1, 4, 1])
    ]
    np.testing.assert_array_equal(anchors, expected)


def test_sizes_of_levels():
    # 16 * 2^(1/3) = 20.2 and 16 * 2^(2/3) = 25.4, cut off; the next level has twice as much.
    assert ops.level_anchor_sizes((2, 3), 4.0, 3) == ((16, 20, 25), (32, 40, 50))
    assert ops.level_anchor_sizes(range(3, 8), 4.0, 3) == ops.RETINANET_SIZES
    assert ops.level_anchor_sizes((4,), 0.5, 1) == ((8,),)


def test_retinanet_sizes():
    assert ops.RETINANET_SIZES[0] == (32, 40, 50)
    assert ops.RETINANET_SIZES[4] == (512, 645, 812)


def test_matches_torchvision(golden):
    assert tuple(map(tuple, golden["sizes"].tolist())) == ops.RETINANET_SIZES
    for sizes, base in zip(ops.RETINANET_SIZES, golden["base"], strict=True):
        np.testing.assert_array_equal(ops.base_anchors(sizes, ops.ASPECT_RATIOS), base)
    levels = ops.pyramid_anchors(
        [tuple(shape) for shape in golden["feature_shapes"].tolist()],
        [tuple(stride) for stride in golden["strides"].tolist()],
    )
    np.testing.assert_array_equal(np.concatenate(levels), golden["anchors"])


def test_compiled_program_holds_no_table():
    def largest_constant(jaxpr):
        return max((np.size(constant) for constant in jaxpr.consts), default=0)

    base = ops.base_anchors((32, 64), (0.5, 1.0, 2.0))
    jaxpr = jax.make_jaxpr(lambda: ops.grid_anchors((100, 168), (8, 8), base))()
    assert largest_constant(jaxpr) <= base.size
    np.testing.assert_array_equal(
        jax.jit(lambda: ops.grid_anchors((5, 4), (8, 8), base))(),
        ops.grid_anchors((5, 4), (8, 8), base),
    )


def test_levels_must_agree():
    with pytest.raises(ValueError, match="1 feature shapes, 2 strides and 5"):
        ops.pyramid_anchors([(4, 4)], [(8, 8), (16, 16)])
