"""Where tiles are: as SAHI has them, over the whole image, and all of one size."""

import pathlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ipg_jax.images import TileGrid

SAHI = np.load(pathlib.Path(__file__).parents[1] / "golden" / "sahi.npz")


@pytest.mark.parametrize("name", [name for name in SAHI if name.startswith("tiles/")])
def test_windows_are_those_of_sahi(name):
    height, width, tile_height, tile_width, overlap = map(float, name.split("/")[1:])
    grid = TileGrid((int(tile_height), int(tile_width)), overlap)
    np.testing.assert_array_equal(grid.windows((int(height), int(width))), SAHI[name])


def test_the_last_tiles_are_shifted_inside():
    # Steps of 8 - 2: columns from 0, 6 and 12, which would end at 20 of 17, hence from 17 - 8 = 9.
    found = TileGrid((5, 8), 0.25).windows((5, 17))
    np.testing.assert_array_equal(found, [[0, 0, 8, 5], [6, 0, 14, 5], [9, 0, 17, 5]])
    np.testing.assert_array_equal(TileGrid((5, 8)).windows((3, 8)), [[0, 0, 8, 3]])


@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    tile=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    overlap=st.floats(0, 1, exclude_max=True),
)
def test_windows_cover_the_image_and_have_the_full_size(size, tile, overlap):
    windows = TileGrid(tile, overlap).windows(size)
    seen = np.zeros(size, int)
    for x0, y0, x1, y1 in windows:
        assert (y1 - y0, x1 - x0) == (min(tile[0], size[0]), min(tile[1], size[1]))
        seen[y0:y1, x0:x1] += 1
    assert seen.min() > 0
    assert seen.sum() == sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in windows)  # all inside
    assert len(np.unique(windows, axis=0)) == len(windows)
    # What is no larger than the overlap, in whole pixels, is whole in one tile.
    height, width = (min(s, max(1, int(overlap * t))) for s, t in zip(size, tile, strict=True))
    for y in range(size[0] - height + 1):
        for x in (0, (size[1] - width) // 2, size[1] - width):
            x0, y0, x1, y1 = windows.T
            assert ((x0 <= x) & (y0 <= y) & (x + width <= x1) & (y + height <= y1)).any()


@pytest.mark.parametrize("overlap", [1.0, -0.1, float("nan")])
def test_a_grid_refuses_an_overlap(overlap):
    with pytest.raises(ValueError, match="is not a share of a tile"):
        TileGrid((5, 5), overlap)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (2.5, 5), (1, 2, 3), 512, "64", True, None])
def test_a_grid_refuses_a_size(size):
    with pytest.raises(ValueError, match="the size of a tile is two whole numbers above 0"):
        TileGrid(size)
