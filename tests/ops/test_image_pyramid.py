import itertools

import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from ipg_jax import ops
from ipg_jax.images import padded_pyramid
from ipg_jax.types import PackedImage

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@given(hnp.arrays(np.uint8, (8, 12, 3)))
def test_uint8_levels_are_means_rounded_half_up(image):
    pyramid = ops.image_pyramid(image, 3)
    assert [level.shape for level in pyramid] == [(8, 12, 3), (4, 6, 3), (2, 3, 3)]
    for fine, coarse in itertools.pairwise(pyramid):
        fine = np.asarray(fine, np.float64)
        mean = (fine[::2, ::2] + fine[1::2, ::2] + fine[::2, 1::2] + fine[1::2, 1::2]) / 4
        assert coarse.dtype == np.uint8
        np.testing.assert_array_equal(coarse, np.floor(mean + 0.5))


def test_rounding_by_hand():
    blocks = np.uint8([[0, 1, 255, 255], [0, 1, 255, 254]])[..., None]
    np.testing.assert_array_equal(ops.image_pyramid(blocks, 2)[1][..., 0], [[1, 255]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_floating_levels_are_bilinear_at_half_pixel_centres(dtype):
    image = jnp.asarray(np.random.default_rng(0).integers(0, 64, (2, 8, 4, 3)), dtype)
    pyramid = ops.image_pyramid(image, 3)
    assert pyramid[0] is image
    for fine, coarse in itertools.pairwise(pyramid):
        assert coarse.dtype == dtype
        resized = jax.image.resize(
            fine.astype(jnp.float32), coarse.shape, "bilinear", antialias=False
        )
        np.testing.assert_array_equal(coarse, resized.astype(dtype))


def test_jit_and_vmap_equal_the_loop():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    mapped = jax.jit(jax.vmap(lambda image: ops.image_pyramid(image, 4)))(images)
    for level, batched in enumerate(ops.image_pyramid(images, 4)):
        np.testing.assert_array_equal(mapped[level], batched)
        each = np.stack([ops.image_pyramid(image, 4)[level] for image in images])
        np.testing.assert_array_equal(mapped[level], each)


def test_padding_enters_no_pixel_of_the_content():
    """As on the host: an odd last row or column is averaged with itself, level by level."""
    rng = np.random.default_rng(0)
    sizes = np.int32([[16, 24], [13, 9], [14, 23], [1, 2]])
    images = rng.integers(0, 256, (4, 16, 24, 3), np.uint8)  # noise in the padding
    pyramid = jax.device_get(jax.jit(ops.image_pyramid, static_argnums=1)(images, 4, sizes))
    for i, (height, width) in enumerate(sizes.tolist()):
        content = images[i, :height, :width]
        for level, want in enumerate(padded_pyramid(content, (height, width), (16, 24), 4)):
            rows, columns = -(-height // 2**level), -(-width // 2**level)
            np.testing.assert_array_equal(pyramid[level][i, :rows, :columns], want[:rows, :columns])
    # By hand: 3 columns of content, then padding of 99.
    row = np.uint8([[2, 4, 8, 99]] * 2)[..., None]
    np.testing.assert_array_equal(ops.image_pyramid(row, 2, np.int32([2, 3]))[1][..., 0], [[3, 8]])


def test_errors():
    with pytest.raises(ValueError, match="multiples of 4 for 3 levels, got 8 x 6"):
        ops.image_pyramid(np.zeros((8, 6, 3), np.uint8), 3)
    with pytest.raises(ValueError, match="at least one level"):
        ops.image_pyramid(np.zeros((8, 6, 3), np.uint8), 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_normalize(dtype):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 16, 3), np.uint8)
    pyramid = ops.image_pyramid(images, 3)
    sizes = np.int32([[8, 16], [5, 9]])
    normalized = jax.jit(ops.normalize_pyramid, static_argnums=(2, 3, 4))(
        pyramid, sizes, MEAN, STD, dtype
    )
    contents = [[(8, 16), (5, 9)], [(4, 8), (3, 5)], [(2, 4), (2, 3)]]
    for level, result, content in zip(pyramid, normalized, contents, strict=True):
        assert result.dtype == dtype
        expected = (np.asarray(level, np.float64) / 255 - MEAN) / STD
        for i, (height, width) in enumerate(content):
            expected[i, height:] = 0
            expected[i, :, width:] = 0
            padding = np.ones(level.shape[1:3], bool)
            padding[:height, :width] = False
            np.testing.assert_array_equal(np.asarray(result, np.float32)[i][padding], 0)
        np.testing.assert_allclose(
            np.asarray(result, np.float64),
            expected,
            rtol=1e-5 if dtype == jnp.float32 else 1e-2,
            atol=1e-6,
        )


def test_packed_images_are_normalized_like_plain_ones():
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 24, 3), np.uint8)
    sizes = np.int32([[16, 24], [9, 13]])
    pyramid = ops.image_pyramid(images, 2)
    packed = tuple(map(PackedImage.pack, pyramid))
    normalize = jax.jit(lambda images: ops.normalize_pyramid(images, sizes, MEAN, STD))
    want, got = normalize(pyramid), normalize(packed)
    for a, b in zip(got, want, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a.pixels, b)
