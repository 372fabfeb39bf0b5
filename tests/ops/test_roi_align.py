import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import ops

STRIDES = (4, 8, 16, 32)


def slow_roi_align(features, box, output_size, scale, samples, aligned):
    """One box, one bin, one sample at a time, in float64."""
    height, width, channels = features.shape

    def bilinear(y, x):
        if not (-1 <= y <= height and -1 <= x <= width):
            return np.zeros(channels)
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(y), int(x)
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        top = features[y0, x0] * (x0 + 1 - x) + features[y0, x1] * (x - x0)
        bottom = features[y1, x0] * (x0 + 1 - x) + features[y1, x1] * (x - x0)
        return top * (y0 + 1 - y) + bottom * (y - y0)

    x1, y1, x2, y2 = np.asarray(box, np.float64) * scale - (0.5 if aligned else 0)
    box_h, box_w = y2 - y1, x2 - x1
    if not aligned:
        box_h, box_w = max(box_h, 1), max(box_w, 1)
    bins_y, bins_x = output_size
    out = np.zeros((bins_y, bins_x, channels))
    for i, j in np.ndindex(bins_y, bins_x):
        for s, t in np.ndindex(samples, samples):
            y = y1 + box_h * (i + (s + 0.5) / samples) / bins_y
            x = x1 + box_w * (j + (t + 0.5) / samples) / bins_x
            out[i, j] += bilinear(y, x) / samples**2
    return out


def ramp(height, width):
    """Features `(y, x)` of each cell, which bilinear interpolation reproduces."""
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return np.stack([y, x], axis=-1).astype(np.float32)


def test_half_pixel_conventions_by_hand():
    box = np.float32([[2, 4, 6, 8]])
    for aligned, shift in ((False, 0), (True, 0.5)):
        out = ops.roi_align(ramp(12, 12), box, 2, 1.0, 2, aligned)
        expected = np.stack(np.meshgrid([5, 7], [3, 5], indexing="ij"), axis=-1) - shift
        np.testing.assert_allclose(out[0], expected, atol=1e-5)


def test_boxes_smaller_than_a_cell():
    box = np.float32([[3, 3, 3.5, 3.5]])
    # Not aligned: as if it ended at 4. Aligned: its own centre, less half a cell.
    for aligned, value in ((False, 3.5), (True, 2.75)):
        out = ops.roi_align(ramp(8, 8), box, 1, 1.0, 2, aligned)
        np.testing.assert_allclose(out[0, 0, 0], [value, value], atol=1e-6)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [1, 2, 3])
def test_matches_torchvision(golden, aligned, ratio):
    def pool(features):
        return ops.roi_align(features, golden["boxes"], (3, 2), 1 / 8, ratio, aligned)

    pooled, vjp = jax.vjp(pool, jnp.asarray(golden["features"]))
    np.testing.assert_allclose(pooled, golden[f"pooled_{aligned}_{ratio}"], atol=1e-5)
    (gradient,) = vjp(jnp.asarray(golden["cotangent"]))
    np.testing.assert_allclose(
        gradient, golden[f"gradient_{aligned}_{ratio}"], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("aligned", [False, True])
def test_matches_slow_twin(golden, aligned):
    features, boxes = golden["features"], golden["boxes"]
    out = ops.roi_align(features, boxes, (2, 4), 0.1, 2, aligned)
    for box, value in zip(boxes, out, strict=True):
        expected = slow_roi_align(features, box, (2, 4), 0.1, 2, aligned)
        np.testing.assert_allclose(value, expected, atol=1e-5)


def test_multilevel_matches_torchvision(golden):
    levels = [golden[f"level_{i}"] for i in range(4)]
    strides = golden["strides"].tolist()
    pooled = ops.multilevel_roi_align(
        levels, golden["multilevel_boxes"], 3, strides, 2, False, canonical_size=56.0
    )
    np.testing.assert_allclose(pooled, golden["multilevel"], atol=1e-5)


def test_level_of_each_box():
    # Constant levels, large enough for the boxes, tell from which one a box is pooled.
    levels = [
        np.full((2048 // stride,) * 2 + (1,), i, np.float32) for i, stride in enumerate(STRIDES)
    ]
    sides = [1, 111, 112, 223, 224, 447, 448, 2000]
    boxes = np.float32([[0, 0, side, side] for side in sides])
    pooled = ops.multilevel_roi_align(levels, boxes, 1, STRIDES)
    np.testing.assert_allclose(np.ravel(pooled), [0, 0, 1, 1, 2, 2, 3, 3], atol=1e-6)


def test_empty_and_padding_boxes():
    features = ramp(6, 6)
    assert ops.roi_align(features, np.zeros((0, 4), np.float32), 7).shape == (0, 7, 7, 2)
    box = np.float32([[1, 1, 4, 4]])
    padded = np.concatenate([box, np.zeros((2, 4), np.float32)])
    levels = [features, features[::2, ::2]]
    pooled = ops.multilevel_roi_align(levels, padded, 2, (1, 2))
    assert np.isfinite(pooled).all()
    np.testing.assert_array_equal(pooled[:1], ops.multilevel_roi_align(levels, box, 2, (1, 2)))


def test_gradients_stop_at_the_boxes(golden):
    def total(features, boxes):
        return ops.roi_align(features, boxes, 2, 1 / 8).sum()

    by_features, by_boxes = jax.grad(total, argnums=(0, 1))(golden["features"], golden["boxes"])
    assert np.abs(by_features).max() > 0
    np.testing.assert_array_equal(by_boxes, 0)


def test_bfloat16_features_are_summed_in_float32(golden):
    features = jnp.asarray(golden["features"], jnp.bfloat16)
    pooled = ops.roi_align(features, golden["boxes"], 2, 1 / 8)
    assert pooled.dtype == jnp.bfloat16
    exact = ops.roi_align(features.astype(jnp.float32), golden["boxes"], 2, 1 / 8)
    np.testing.assert_array_equal(pooled, exact.astype(jnp.bfloat16))


def test_gradients_of_bfloat16_features_are_summed_in_float32():
    # In bfloat16, counting by ones ends at 256.
    boxes = np.tile(np.float32([[2, 2, 3, 3]]), (300, 1))
    gradient = jax.grad(lambda f: ops.roi_align(f, boxes, 1, 1.0, 1).astype(jnp.float32).sum())(
        jnp.zeros((5, 5, 1), jnp.bfloat16)
    )
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient[2:4, 2:4, 0].astype(jnp.float32), 75)
    assert gradient.astype(jnp.float32).sum() == 300


def test_more_boxes_than_are_pooled_at_once(golden):
    features, boxes = golden["features"], golden["boxes"]
    repeats = 150 // len(boxes) + 1
    pooled = ops.roi_align(features, np.tile(boxes, (repeats, 1)), 2, 1 / 8)
    once = ops.roi_align(features, boxes, 2, 1 / 8)
    np.testing.assert_allclose(pooled, np.tile(once, (repeats, 1, 1, 1)), rtol=1e-5, atol=1e-6)


def test_jit_and_vmap_equal_the_loop(golden):
    features = np.stack([golden["features"], -2 * golden["features"]])
    boxes = np.stack([golden["boxes"], golden["boxes"] * 0.5])

    def pool_and_gradient(features, boxes):
        pooled, vjp = jax.vjp(lambda f: ops.roi_align(f, boxes, 3, 1 / 8), features)
        return pooled, *vjp(pooled)

    mapped = jax.jit(jax.vmap(pool_and_gradient))(features, boxes)
    for i in range(2):
        for value, one in zip(mapped, pool_and_gradient(features[i], boxes[i]), strict=True):
            np.testing.assert_allclose(value[i], one, rtol=1e-5, atol=1e-5)


def test_errors():
    features, boxes = ramp(6, 6), np.float32([[0, 0, 4, 4]])
    with pytest.raises(ValueError, match="sampling_ratio must be positive, got 0"):
        ops.roi_align(features, boxes, 2, 1.0, 0)
    for strides in ((4, 16), (4, 8, 16), (3, 6), (8, 4)):
        with pytest.raises(ValueError, match="powers of two"):
            ops.multilevel_roi_align([features, features], boxes, 2, strides)


def test_levels_count_on_where_a_backbone_keeps_the_resolution():
    # Sides of 56, 112 and 224 pixels belong to levels 2, 3 and 4, whose strides are 4, 8 and 8.
    levels = [jnp.full((32 // s, 32 // s, 1), float(s)) for s in (1, 2, 2)]
    levels[2] = levels[2] + 1.0
    boxes = jnp.array([[0.0, 0, side, side] for side in (56, 112, 224, 448)])
    got = ops.multilevel_roi_align(levels, boxes / 8, 1, (4, 8, 8), canonical_size=28.0)
    np.testing.assert_allclose(got[:, 0, 0, 0], [1, 2, 3, 3])
