"""Objects of a window: clipped, shifted, and regions to ignore where too little is left."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from ipg_jax.data import Objects, crop_objects


def objects_of(boxes, ignore=None):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Objects(
        boxes=boxes,
        labels=np.arange(len(boxes), dtype=np.int32),
        ignore=np.zeros(len(boxes), bool) if ignore is None else np.asarray(ignore, bool),
        area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 2,  # as of a segmentation
    )


def test_shifts_clips_ignores_and_leaves_out():
    whole, half, tenth, outside, touching = (
        [12, 22, 16, 26],
        [5, 25, 15, 35],
        [19, 20, 29, 30],
        [0, 0, 5, 5],
        [20, 20, 30, 30],
    )
    found = crop_objects(
        objects_of([whole, half, tenth, outside, touching]), (10, 20, 20, 40), min_visible=0.3
    )
    np.testing.assert_array_equal(found.boxes, [[2, 2, 6, 6], [0, 5, 5, 15], [9, 0, 10, 10]])
    np.testing.assert_array_equal(found.labels, [0, 1, 2])
    np.testing.assert_array_equal(found.ignore, [False, False, True])
    np.testing.assert_allclose(found.area, [8, 25, 5])


def test_a_share_of_just_min_visible_is_an_object():
    found = crop_objects(objects_of([[0, 0, 8, 8]]), (4, 0, 20, 20), min_visible=0.5)
    assert not found.ignore[0]


def test_what_was_ignored_stays_so():
    found = crop_objects(objects_of([[2, 2, 4, 4]], [True]), (0, 0, 9, 9), min_visible=0.5)
    assert found.ignore[0]


@pytest.mark.parametrize(
    ("window", "share", "message"),
    [((3, 0, 3, 5), 0.5, "is empty"), ((0, 0, 5, 5), 1.5, "share from 0 to 1")],
)
def test_refuses(window, share, message):
    with pytest.raises(ValueError, match=message):
        crop_objects(objects_of([]), window, min_visible=share)


@hypothesis.given(
    st.lists(
        st.tuples(*[st.integers(0, 60)] * 2, *[st.integers(1, 40)] * 2), min_size=0, max_size=6
    ),
    st.tuples(*[st.integers(-20, 60)] * 2, *[st.integers(1, 60)] * 2),
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
)
def test_equals_counting_pixels(corners, corner, min_visible):
    boxes = [[x, y, x + w, y + h] for x, y, w, h in corners]
    x0, y0, width, height = corner
    found = crop_objects(
        objects_of(boxes), (x0, y0, x0 + width, y0 + height), min_visible=min_visible
    )
    rows = iter(zip(found.boxes, found.ignore, found.labels, strict=True))
    for label, (bx0, by0, bx1, by1) in enumerate(boxes):
        canvas = np.zeros((140, 140), bool)  # of pixels -30 to 109
        canvas[by0 + 30 : by1 + 30, bx0 + 30 : bx1 + 30] = True
        seen = canvas[y0 + 30 : y0 + height + 30, x0 + 30 : x0 + width + 30]
        if not seen.any():
            continue
        box, ignored, of = next(rows)
        ys, xs = np.nonzero(seen)
        np.testing.assert_array_equal(box, [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
        assert of == label
        assert ignored == (seen.sum() < min_visible * canvas.sum())
    assert next(rows, None) is None
