"""The convolution that reads the image, of plain images and packed ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, assert_equal, every_form, every_type, normal, run, whole

from ipg_jax import kernels
from ipg_jax.kernels import conv2d, stem_conv
from ipg_jax.kernels.stem import block_kernel
from ipg_jax.models import IPGTransform, ResNet
from ipg_jax.types import PackedFeatures, PackedImage

GEOMETRIES = [(7, 2, 3), (4, 4, 0), (3, 2, 1), (4, 2, 3)]  # size, stride, padding


def pixels(y):
    """Unpacks features by the definition: the channels are columns 0, 2, 1 and 3, then features."""
    if not isinstance(y, PackedFeatures):
        return y
    b, h, w, _ = y.upper.shape
    rows = jnp.stack([y.upper, y.lower], axis=2).reshape(b, 2 * h, w, 4, y.features)
    return rows[..., jnp.array([0, 2, 1, 3]), :].reshape(b, 2 * h, 4 * w, y.features)


def test_packed_images_by_hand():
    image = np.arange(8 * 4 * 3).reshape(1, 8, 4, 3)
    packed = PackedImage.pack(image)
    assert packed.blocks.shape == (1, 2, 1, 48)
    assert packed.shape == image.shape
    assert packed.dtype == image.dtype
    want = [12 * row + i for row in range(4, 8) for i in range(12)]  # four rows of four pixels
    np.testing.assert_array_equal(packed.blocks[0, 1, 0], want)
    np.testing.assert_array_equal(packed.pixels, image)


@pytest.mark.parametrize(("height", "width"), [(8, 6), (6, 8)])
def test_sizes_that_do_not_divide_are_refused(height, width):
    with pytest.raises(ValueError, match=f"multiples of 4, got {height} x {width}: pad the image"):
        PackedImage.pack(np.zeros((1, height, width, 3)))


@pytest.mark.parametrize(
    ("packed", "width", "implementation"),
    [
        (False, 12, None),
        (True, 12, "fast"),  # of an odd number of blocks
        (True, 16, "reference"),
        (True, 16, "fast"),
        (True, 16, None),
    ],
)
@pytest.mark.parametrize(("size", "strides", "padding"), GEOMETRIES)
def test_values_and_gradients_are_those_of_a_convolution(
    size, strides, padding, width, packed, implementation
):
    image, kernel = normal(0, 2, 8, width, 3), normal(1, size, size, 3, 5)
    options = {"strides": strides, "padding": padding}
    definition = functools.partial(conv2d, implementation="reference", **options)
    gradient = normal(2, *jax.eval_shape(definition, image, kernel).shape)

    def convolve(image, kernel):
        given = PackedImage.pack(image) if packed else image
        y = stem_conv(given, kernel, implementation=implementation, **options)
        fast = packed and implementation != "reference" and (size, width) == (7, 16)
        assert isinstance(y, PackedFeatures) == fast
        return pixels(y)

    assert_close(run(convolve, gradient, image, kernel), run(definition, gradient, image, kernel))


@every_form
@every_type
@pytest.mark.parametrize("shape", [(1, 4, 8, 3), (0, 8, 8, 3)])
def test_one_block_and_no_images(shape, dtype, implementation):
    image, kernel = whole(0, shape, dtype, -1, 2), whole(1, (7, 7, 3, 4), dtype, -1, 2)

    @jax.jit
    def both(image, kernel):
        packed = PackedImage.pack(image)
        y = stem_conv(packed, kernel, strides=2, padding=3, implementation=implementation)
        return pixels(y), conv2d(image, kernel, strides=2, padding=3)

    assert_equal(*both(image, kernel))


def test_kernels_of_blocks_by_hand():
    """Each output's taps are the pixels that it looks at, of 3 blocks of 8 columns side by side."""
    taps = jnp.arange(1.0, 50).reshape(7, 7, 1, 1)
    for row in range(2):
        kernel = np.asarray(block_kernel(taps, row))
        assert kernel.shape == (2 + row, 3, 2 * 16, 4)
        # From the two blocks side by side, their rows and columns, to the rows of pixels.
        rows = kernel.reshape(2 + row, 3, 2, 4, 4, 4).transpose(0, 3, 1, 2, 4, 5)
        rows = rows.reshape(4 * (2 + row), 24, 4)
        for channel, column in enumerate((0, 2, 1, 3)):
            want = np.zeros(rows.shape[:2])
            # The window begins 3 pixels above and to the left of `2 row` and `2 column`.
            top, left = 4 + 2 * row - 3, 8 + 2 * column - 3
            want[top : top + 7, left : left + 7] = taps[..., 0, 0]
            np.testing.assert_array_equal(rows[..., channel], want)


@every_form
@pytest.mark.parametrize(
    ("module", "method"),
    [(ResNet(10, base_channels=4), "stem"), (IPGTransform(8), "__call__")],
    ids=["stem", "transform"],
)
def test_networks_read_plain_and_packed_images(module, method, implementation):
    image = normal(0, 1, 16, 16, 3)

    @jax.jit
    def apply(image):
        options = {"train": False, "method": method}
        return module.init_with_output(jax.random.key(0), image, **options)[0]

    with kernels.use("reference"):
        want = apply(image)
    with kernels.use(implementation):
        got = apply(PackedImage.pack(image))
    assert_close(got, want)
