"""Mapping detections back to the original images, and the results format."""

import json
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax.evaluation import (
    DetectionCollector,
    boxes_to_original,
    load_results,
    save_results,
)
from ipg_jax.types import Detections


def detections(*images, num=3):
    """A padded batch of detections from a list of `(box, score, label)` per image."""
    shape = (len(images), num)
    boxes, scores = np.full((*shape, 4), np.nan, np.float32), np.ones(shape, np.float32)
    labels, valid = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, rows in enumerate(images):
        for k, (box, score, label) in enumerate(rows):
            boxes[i, k], scores[i, k], labels[i, k], valid[i, k] = box, score, label, True
    return Detections(boxes=boxes, scores=scores, labels=labels, valid=valid)


def add(collector, batch, image_id, scale=(1.0, 1.0), weight=None):
    n = len(image_id)
    collector.add(
        batch,
        np.array(image_id, np.int32),
        np.tile(np.array(scale, np.float32), (n, 1)),
        np.ones(n, np.float32) if weight is None else np.array(weight, np.float32),
    )


@pytest.fixture
def ground_truth(make_ground_truth):
    return make_ground_truth([], [], [], image_ids=["c", "a", "b"], size=(100, 200))


def test_boxes_return_to_the_original_image_with_its_own_ids(ground_truth):
    collector = DetectionCollector(ground_truth)
    # Height was scaled by 2 and width by 4.
    add(collector, detections([([40, 20, 80, 60], 0.5, 1)]), [2], scale=(2.0, 4.0))
    assert collector.results() == [
        {"image_id": "b", "category_id": 10, "bbox": [10.0, 10.0, 10.0, 20.0], "score": 0.5}
    ]


def test_boxes_are_clipped_to_the_original_image(ground_truth):
    collector = DetectionCollector(ground_truth)
    add(collector, detections([([-4, -6, 500, 300], 0.5, 0)]), [0], scale=(2.0, 2.0))
    assert collector.results()[0]["bbox"] == [0.0, 0.0, 200.0, 100.0]


@given(
    corner=st.tuples(st.integers(0, 99), st.integers(0, 99)),
    sides=st.tuples(st.integers(1, 101), st.integers(1, 1)),
    scale=st.tuples(st.floats(0.125, 8.0, width=32), st.floats(0.125, 8.0, width=32)),
)
def test_mapping_back_inverts_the_resize(corner, sides, scale):
    original = np.array([[*corner, corner[0] + sides[0], corner[1] + sides[1]]], np.float32)
    y, x = np.array(scale, np.float32)
    back = boxes_to_original(
        original * np.array([x, y, x, y]), np.array([y, x]), np.array([100, 200])
    )
    np.testing.assert_allclose(back, original, rtol=1e-7)


def test_padding_rows_and_padding_images_are_dropped(ground_truth):
    collector = DetectionCollector(ground_truth)
    row = ([0, 0, 10, 10], 0.25, 0)
    add(collector, detections([row], [row, row], [row]), [1, 0, 0], weight=[1, 0, 0])
    assert [r["image_id"] for r in collector.results()] == ["a"]
    assert collector.missing() == ["c", "b"]


def test_an_image_without_detections_is_not_missing(ground_truth):
    collector = DetectionCollector(ground_truth)
    add(collector, detections([], [], []), [0, 1, 2])
    assert collector.results() == []
    assert collector.missing() == []


def test_device_arrays_are_taken(ground_truth):
    collector = DetectionCollector(ground_truth)
    batch = detections([([0, 0, 10, 10], 0.25, 1)])
    on_device = Detections(**{k: jnp.asarray(v) for k, v in vars(batch).items()})
    collector.add(on_device, jnp.array([0]), jnp.ones((1, 2)), jnp.ones(1))
    assert collector.results()[0]["category_id"] == 10


@pytest.mark.parametrize("together", [True, False])
def test_an_image_that_comes_twice_is_named(ground_truth, together):
    collector = DetectionCollector(ground_truth)
    with pytest.raises(ValueError, match="'a' was added twice"):  # noqa: PT012
        if together:
            add(collector, detections([], []), [1, 1])
        else:
            add(collector, detections([]), [1])
            add(collector, detections([]), [1])


def test_a_refused_batch_leaves_nothing_behind(ground_truth):
    collector = DetectionCollector(ground_truth)
    with pytest.raises(ValueError, match="added twice"):
        add(collector, detections([], []), [1, 1])
    assert collector.missing() == ["c", "a", "b"]


@pytest.mark.parametrize(
    "row", [([0, 0, np.nan, 1], 0.5, 0), ([0, 0, 1, np.inf], 0.5, 0), ([0, 0, 1, 1], np.nan, 0)]
)
def test_detections_that_are_not_finite_are_refused(ground_truth, row):
    with pytest.raises(ValueError, match="'c' has detections"):
        add(DetectionCollector(ground_truth), detections([row]), [0])


def test_merged_collectors_equal_one_whatever_the_order(ground_truth):
    rows = [[([i, 0, 10 + i, 10], 0.5, 0), ([i, 0, 20, 10], 0.25, 1)] for i in range(3)]
    alone, first, second = (DetectionCollector(ground_truth) for _ in range(3))
    add(alone, detections(*rows), [0, 1, 2])
    add(first, detections(rows[2]), [2])
    add(first, detections(rows[0]), [0])
    add(second, detections(rows[1]), [1])
    second.merge(pickle.loads(pickle.dumps(first)))  # as sent by another host
    assert second.missing() == []
    assert second.results() == alone.results()
    assert [r["image_id"] for r in alone.results()] == ["c", "c", "a", "a", "b", "b"]


def test_merging_refuses_common_images_and_other_data_sets(ground_truth, make_ground_truth):
    first, second = DetectionCollector(ground_truth), DetectionCollector(ground_truth)
    add(first, detections([], []), [0, 2])
    add(second, detections([], []), [1, 2])
    with pytest.raises(ValueError, match="1 images were added twice: 'b'"):
        first.merge(second)
    with pytest.raises(ValueError, match="different data sets"):
        first.merge(DetectionCollector(make_ground_truth([])))


def best_of_class(boxes, scores, labels, size):
    """Keeps the best box of each class, two at most; the first of equals."""
    assert boxes.dtype == scores.dtype == np.float32
    assert labels.dtype == np.int32
    assert size.tolist() == [100, 200]
    order = [i for i in np.argsort(-scores, kind="stable") if np.isfinite(scores[i])]
    kept = [i for n, i in enumerate(order) if labels[i] not in labels[order[:n]]][:2]
    rows = np.pad(kept, (0, 2 - len(kept))).astype(int)
    return Detections(
        boxes=boxes[rows], scores=scores[rows], labels=labels[rows], valid=np.arange(2) < len(kept)
    )


def test_mirrored_boxes_come_back_to_where_they_are(ground_truth):
    collector = DetectionCollector(ground_truth)
    # 400 x 800 pixels for 100 x 200: the mirrored box spans x 40 to 80 of 800, y 20 to 60 of 400.
    collector.add(
        detections([([40, 20, 80, 60], 0.5, 1)]),
        np.array([2], np.int32),
        np.full((1, 2), 4, np.float32),
        np.ones(1, np.float32),
        flipped=True,
    )
    assert collector.results()[0]["bbox"] == [180.0, 5.0, 10.0, 10.0]


def test_views_are_joined_in_the_original_image(ground_truth):
    first, second = DetectionCollector(ground_truth), DetectionCollector(ground_truth)
    add(first, detections([([0, 0, 10, 10], 0.5, 0)], [], []), [0, 1, 2])
    add(
        second,
        detections([([2, 2, 22, 22], 0.5, 0), ([4, 4, 8, 8], 0.25, 1)], [([0, 0, 2, 2], 0.75, 1)]),
        [0, 1],
        scale=(2.0, 2.0),
    )
    joined = DetectionCollector.from_views(ground_truth, [first, second], best_of_class)
    assert [(r["image_id"], r["bbox"], r["score"]) for r in joined.results()] == [
        ("c", [0.0, 0.0, 10.0, 10.0], 0.5),  # of equal scores the first view's
        ("c", [2.0, 2.0, 2.0, 2.0], 0.25),
        ("a", [0.0, 0.0, 1.0, 1.0], 0.75),
    ]
    assert joined.missing() == []


def test_views_are_joined_in_arrays_of_one_shape(ground_truth):
    views = [DetectionCollector(ground_truth) for _ in range(3)]
    row, shapes = ([0, 0, 10, 10], 0.5, 0), set()

    def select(boxes, scores, labels, size):
        shapes.add((boxes.shape, scores.shape, labels.shape))
        return best_of_class(boxes, scores, labels, size)

    for view, count in zip(views, (0, 3, 1), strict=True):
        add(view, detections([row] * count, [], [row]), [0, 1, 2])
    DetectionCollector.from_views(ground_truth, views, select)
    assert shapes == {((9, 4), (9,), (9,))}
    nothing = [DetectionCollector(ground_truth) for _ in range(2)]
    for view in nothing:
        add(view, detections([]), [0])
    joined = DetectionCollector.from_views(ground_truth, nothing, best_of_class)
    assert (joined.results(), joined.missing()) == ([], ["a", "b"])


def test_a_single_view_goes_through_the_selection_too(ground_truth, make_ground_truth):
    view = DetectionCollector(ground_truth)
    add(view, detections([([0, 0, 10, 10], 0.5, 0), ([0, 0, 10, 9], 0.3, 0)]), [0])
    joined = DetectionCollector.from_views(ground_truth, [view], best_of_class)
    assert joined.results() == view.results()[:1]
    with pytest.raises(ValueError, match="different data sets"):
        DetectionCollector.from_views(make_ground_truth([]), [view], best_of_class)


def test_tiles_are_taken_to_their_place_in_the_image(ground_truth, make_ground_truth):
    # Two tiles of the first image, one of the third, and of the second only one of two was seen.
    image_index = np.array([0, 0, 2, 1, 1], np.int32)
    windows = np.array([(0, 0, 50, 40), (30, 20, 80, 60), (5, 0, 55, 40)] + [(0, 0, 50, 40)] * 2)
    of_tiles = make_ground_truth(*[[]] * 5, image_ids=["v", "w", "x", "y", "z"], size=(40, 50))
    tiles = DetectionCollector(of_tiles)
    row = ([10, 0, 60, 20], 0.5, 1)  # beyond the tile, to whose 50 columns it is clipped
    add(tiles, detections([([2, 4, 20, 30], 0.25, 0)], [row], []), [0, 1, 2])
    add(tiles, detections([row]), [4])
    joined = DetectionCollector.from_tiles(
        ground_truth, tiles, image_index, windows.astype(np.int32)
    )
    assert [(r["image_id"], r["category_id"], r["bbox"], r["score"]) for r in joined.results()] == [
        ("c", 7, [2.0, 4.0, 18.0, 26.0], 0.25),
        ("c", 10, [40.0, 20.0, 40.0, 20.0], 0.5),
    ]
    assert joined.missing() == ["a"]


def test_a_file_gives_back_the_same_floats(ground_truth, tmp_path):
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 90, (50, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(0, 9, (50, 2))], axis=1)
    collector = DetectionCollector(ground_truth)
    rows = [(box, score, 0) for box, score in zip(boxes, rng.random(50), strict=True)]
    add(collector, detections(rows, num=50), [0], scale=(1.7, 1.3))
    path = tmp_path / "eval" / "detections.json"
    save_results(path, collector.results())
    assert load_results(path) == collector.results()


def test_a_file_is_standard_json(tmp_path):
    path = tmp_path / "detections.json"
    save_results(path, [])
    assert json.loads(path.read_text()) == []
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_results(path, [{"image_id": 1, "score": float("nan")}])
    assert json.loads(path.read_text()) == []  # the good file is still there
