import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax.images import make_geometry, padding_multiple


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (800, 1066)),  # short side first: 640 * 5 / 3 = 1066.7
        ((640, 480), (1066, 800)),
        ((100, 400), (333, 1333)),  # long side first: 100 * 3.3325 = 333.25
        ((800, 1333), (800, 1333)),
        ((1600, 2000), (800, 1000)),
        ((385, 385), (799, 799)),  # torchvision's floating point, see the docstring
        ((1, 2000), (1, 1333)),  # never nothing
    ],
)
def test_resize_rule(size, expected):
    assert make_geometry((800, 1333), levels=4).resized(size) == expected


def test_canvases():
    geometry = make_geometry((800, 1333), levels=4)
    assert geometry.canvases == ((800, 1344), (1344, 800))
    sizes = np.array([[480, 640], [640, 480], [500, 500]])
    np.testing.assert_array_equal(geometry.buckets(sizes), [0, 1, 0])
    square = make_geometry((192, 192), levels=4)
    assert square.canvases == ((192, 192),)
    np.testing.assert_array_equal(square.buckets(sizes), [0, 0, 0])
    assert make_geometry((600, 1000), levels=6).canvases == ((640, 1024), (1024, 640))
    assert make_geometry((600, 1000), levels=4, pad_multiple=8).canvases[0] == (600, 1000)


def test_windows_have_one_canvas():
    geometry = make_geometry((512, 640), levels=4, limit=(250, 320))
    assert geometry.limits == ((250, 320),)
    assert geometry.canvases == ((256, 320),)
    np.testing.assert_array_equal(geometry.buckets(np.array([[480, 640], [640, 480]])), [0, 0])
    assert geometry.resized((1024, 1280)) == (512, 640)  # of which windows are cut
    assert make_geometry((512, 640), levels=4).limits == ((512, 640), (640, 512))


def test_padding_lets_the_height_of_every_feature_be_divided():
    assert padding_multiple(4) == 32
    assert padding_multiple(6) == 128  # the total stride of the sixth level's feature
    assert padding_multiple(4, height_parts=3) == 96


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_resized_images_fit_their_canvas(height, width):
    geometry = make_geometry((800, 1333), levels=4)
    resized = geometry.resized((height, width))
    canvas = geometry.canvases[int(geometry.buckets(np.array([[height, width]]))[0])]
    assert resized[0] <= canvas[0]
    assert resized[1] <= canvas[1]


def test_bad_geometry():
    with pytest.raises(ValueError, match="0 < short <= long"):
        make_geometry((1333, 800), levels=4)
    with pytest.raises(ValueError, match="pad_multiple = 4 must be a multiple"):
        make_geometry((800, 1333), levels=4, pad_multiple=4)
