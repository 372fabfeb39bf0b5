import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from made_files import random_image

from ipg_jax import images
from ipg_jax.data.sources.base import Objects
from ipg_jax.data.transforms import pad_objects, padded_pyramid


def resize_slowly(image, height, width):
    """Bilinear interpolation at half-pixel centres, pixel by pixel, in float64."""
    h, w = image.shape[:2]
    out = np.zeros((height, width, 3))
    for i in range(height):
        for j in range(width):
            y = np.clip((i + 0.5) * h / height - 0.5, 0, h - 1)
            x = np.clip((j + 0.5) * w / width - 0.5, 0, w - 1)
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, h - 1), min(x0 + 1, w - 1)
            top = image[y0, x0] * (1 - (x - x0)) + image[y0, x1] * (x - x0)
            bottom = image[y1, x0] * (1 - (x - x0)) + image[y1, x1] * (x - x0)
            out[i, j] = top * (1 - (y - y0)) + bottom * (y - y0)
    return out


def halve_slowly(image):
    """2x2 means rounded half up, an odd last row or column repeated."""
    padded = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), "edge")
    sums = padded.reshape(padded.shape[0] // 2, 2, -1, 2, 3).astype(int).sum(axis=(1, 3))
    return ((sums + 2) // 4).astype(np.uint8)


def run_pyramid(image, size, canvas, levels):
    pyramid = padded_pyramid(tf.constant(image), tf.constant(size), tf.constant(canvas), levels)
    return [level.numpy() for level in pyramid]


@pytest.mark.parametrize("size", [(23, 37), (9, 14), (16, 24), (1, 1)])
def test_pyramid_against_the_slow_twin(size):
    image = random_image(16, 24)
    pyramid = run_pyramid(image, size, (32, 64), levels=4)
    content = pyramid[0][: size[0], : size[1]]
    exact = resize_slowly(image, *size)
    assert np.abs(content - exact).max() <= 0.5 + 1e-3
    for i, level in enumerate(pyramid):
        assert level.dtype == np.uint8
        assert level.shape == (32 >> i, 64 >> i, 3)
        height, width = -(-size[0] // 2**i), -(-size[1] // 2**i)
        np.testing.assert_array_equal(level[:height, :width], content)
        assert not level[height:].any()
        assert not level[:, width:].any()
        content = halve_slowly(content)


def test_rounding_is_half_up():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = (1, 2, 3)
    image[1, 1] = (0, 0, 3)
    pyramid = run_pyramid(image, (2, 2), (2, 2), levels=2)
    np.testing.assert_array_equal(pyramid[0], image)
    np.testing.assert_array_equal(pyramid[1], [[[0, 1, 2]]])  # of 0.25, 0.5 and 1.5


sides = st.tuples(st.integers(1, 70), st.integers(1, 70))


@given(sides, sides, st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_a_detector_sees_the_pixels_that_it_was_trained_on(before, after, levels, seed):
    """`images.padded_pyramid`, in NumPy, and the pipeline's, in TensorFlow, agree to the bit."""
    image = np.random.default_rng(seed).integers(0, 256, (*before, 3), dtype=np.uint8)
    canvas = tuple(-(-side // 8) * 8 for side in after)
    found = images.padded_pyramid(image, after, canvas, levels)
    expected = run_pyramid(image, after, canvas, levels)
    assert len(found) == levels
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("count", [0, 2, 3, 5])
def test_objects_are_padded_or_cut_off(count):
    objects = Objects(
        boxes=np.arange(1, 4 * count + 1, dtype=np.float32).reshape(-1, 4),
        labels=np.arange(count, dtype=np.int32),
        ignore=np.ones(count, bool),
        area=np.ones(count, np.float32),
    )
    boxes, labels, valid, ignore = pad_objects(objects, 3)
    kept = min(count, 3)
    np.testing.assert_array_equal(valid, np.arange(3) < kept)
    np.testing.assert_array_equal(boxes[:kept], objects.boxes[:kept])
    np.testing.assert_array_equal(labels[:kept], objects.labels[:kept])
    np.testing.assert_array_equal(ignore, valid)
    assert boxes.shape == (3, 4)
