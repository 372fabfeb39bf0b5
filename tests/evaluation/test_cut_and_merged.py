"""Ground truth that is cut into tiles and merged again: what a perfect detector would score.

Every object comes back to the bit with `greedy_nmm` over `ios`, if it is whole in one tile at least
(no larger than the overlap), those of its class do not cover it, and `min_visible` is
`1 / (2 - threshold)` or more: two parts of an object, of areas `a` and `b`, have at least `a + b`
less the whole in common, which then is the threshold or more of the smaller.
"""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ipg_jax.data import Objects, crop_objects
from ipg_jax.evaluation import BoxMerge, DetectionCollector, evaluate_coco
from ipg_jax.images import TileGrid
from ipg_jax.types import Detections

SIZE = (150, 170)
GRID = TileGrid((64, 64), 0.5)  # columns from 0, 32, 64, 96 and 106, 64 each; rows from 0 to 86


def cut(boxes, labels, min_visible):
    """What the tiles have of each object, in pixels of the image: boxes, scores of 1, labels."""
    ignore, area = np.zeros(len(boxes), bool), np.ones(len(boxes), np.float32)
    objects = Objects(np.asarray(boxes, np.float32), np.asarray(labels, np.int32), ignore, area)
    parts = []
    for x0, y0, x1, y1 in GRID.windows(SIZE).tolist():
        found = crop_objects(objects, (x0, y0, x1, y1), min_visible=min_visible)
        shifted = found.boxes + np.float32([x0, y0, x0, y0])
        parts.append((shifted[~found.ignore], found.labels[~found.ignore]))
    boxes, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    return boxes, np.ones(len(boxes), np.float32), labels


@pytest.fixture
def score(make_ground_truth):
    """AP of a detector that finds in each tile what there is, whose boxes are then merged."""

    def run(boxes, labels, merge, min_visible):
        truth = make_ground_truth([*zip(boxes, labels, strict=True)], size=SIZE)
        best = merge.select(*cut(boxes, labels, min_visible), np.array(SIZE))
        collector = DetectionCollector(truth)
        collector.add(
            Detections(*(value[None] for value in vars(best).values())),
            np.zeros(1, np.int32),
            np.ones((1, 2), np.float32),
            np.ones(1, np.float32),
        )
        return evaluate_coco(truth, collector.results())["AP"]

    return run


def enough(threshold):
    """The least `min_visible`."""
    return 1 / (2 - threshold)


def growing(**fields) -> BoxMerge:
    """Merging that puts the parts of an object together."""
    return BoxMerge(**{"method": "greedy_nmm", "metric": "ios"} | fields)


BOXES = [
    [40, 40, 60, 60],  # across the borders at 32 and 64: whole in one tile, in parts in others
    [58, 10, 70, 24],  # across one border
    [60, 100, 92, 132],  # as large as the overlap
    [60, 100, 92, 132],  # in the same place, of another class
    [2, 2, 3, 3],
    [106, 86, 170, 150],  # as large as a tile
]
LABELS = [0, 0, 0, 1, 0, 1]


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_average_precision_is_one(score, threshold):
    merge = growing(threshold=threshold)
    assert score(BOXES, LABELS, merge, enough(threshold)) == pytest.approx(1.0)
    assert score(BOXES, LABELS, merge, 1.0) == pytest.approx(1.0)


def test_an_object_beyond_the_overlap_is_put_together(score):
    # Columns 70 to 130 are in no tile whole: 58 of 60 in one, 34 in the next, of which 32 common.
    assert score([[70, 10, 130, 24]], [0], growing(), 0.5) == pytest.approx(1.0)


def test_other_settings_lose_what_is_cut(score):
    assert score(BOXES, LABELS, growing(method="nms"), 0.5) < 0.9  # parts in place of the whole
    assert score(BOXES, LABELS, growing(metric="iou"), 0.3) < 0.95  # parts beside the whole
    # Where parts are no objects, there is nothing to put together.
    nms = BoxMerge(method="nms", metric="iou")
    assert score(BOXES, LABELS, nms, 1.0) == pytest.approx(1.0)


@given(
    st.lists(
        st.tuples(
            *[st.integers(0, 3)] * 2,  # a cell of 40 x 36 pixels
            *[st.integers(0, 8)] * 2,  # where the object begins in it
            *[st.integers(1, 28)] * 2,  # its sides
            st.integers(0, 1),
        ),
        max_size=8,
        unique_by=lambda row: row[:2],
    ),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_every_object_comes_back_as_it_was(rows, threshold):
    corners = np.array([(40 * i + x, 36 * j + y) for i, j, x, y, *_ in rows]).reshape(-1, 2)
    sides = np.array([row[4:6] for row in rows], int).reshape(-1, 2)
    boxes, labels = np.concatenate([corners, corners + sides], axis=1), [row[6] for row in rows]
    parts, scores, of = cut(boxes, labels, enough(threshold))
    merged, index = growing(threshold=threshold)(parts, scores, of)
    found = sorted(map(tuple, np.column_stack([merged, of[index]])))
    assert found == sorted((*box, label) for box, label in zip(boxes, labels, strict=True))
