import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.weights import COCO_CLASSES, Weights, initialize, match_classes

VOC = [
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
]


def test_coco_has_80_classes_at_their_ids():
    assert len(COCO_CLASSES) == 91
    assert sum(map(bool, COCO_CLASSES)) == 80
    assert [COCO_CLASSES[i] for i in (1, 17, 44, 62, 90)] == [
        *("person", "cat", "bottle", "chair", "toothbrush")
    ]


def test_rows_of_a_dense_head_follow_their_names():
    # Two anchors, the classes a, b, c: value 10 * anchor + class.
    loaded = {"head/class_logits/bias": np.float32([0, 1, 2, 10, 11, 12])}
    fresh = {"head/class_logits/bias": jnp.full((4,), -1.0)}
    result = match_classes(loaded, fresh, ["a", "b", "c"], ["c", "new"])
    np.testing.assert_array_equal(result["head/class_logits/bias"], [2, -1, 12, -1])


def test_rows_of_a_box_head_follow_their_names_and_keep_the_background_last():
    boxes = np.arange(8, dtype=np.float32)  # 4 of a, 4 of b
    loaded = {
        "box_head/class_logits/kernel": np.float32([[0, 1, 9]]),  # a, b, background
        "box_head/box_deltas/bias": boxes,
        "box_head/fc0/bias": boxes,
    }
    fresh = {
        "box_head/class_logits/kernel": jnp.full((1, 4), -1.0),
        "box_head/box_deltas/bias": jnp.full((12,), -1.0),
        "box_head/fc0/bias": jnp.zeros((8,)),
    }
    result = match_classes(loaded, fresh, ["a", "b"], ["b", "new", "a"])
    np.testing.assert_array_equal(result["box_head/class_logits/kernel"], [[1, -1, 0, 9]])
    np.testing.assert_array_equal(
        result["box_head/box_deltas/bias"], [4, 5, 6, 7, -1, -1, -1, -1, 0, 1, 2, 3]
    )
    np.testing.assert_array_equal(result["box_head/fc0/bias"], boxes)


def test_one_box_for_all_classes_is_carried_over():
    loaded = {"box_head2/box_deltas/bias": np.arange(4.0)}
    fresh = {"box_head2/box_deltas/bias": jnp.zeros((4,))}
    result = match_classes(loaded, fresh, ["a", "b"], ["b"])
    np.testing.assert_array_equal(result["box_head2/box_deltas/bias"], np.arange(4.0))


def test_every_class_of_voc_is_found_in_coco():
    names = [name for name in COCO_CLASSES if name]
    loaded = {"head/class_logits/bias": np.arange(80, dtype=np.float32)}
    fresh = {"head/class_logits/bias": jnp.full((20,), -1.0)}
    rows = match_classes(loaded, fresh, names, VOC)["head/class_logits/bias"].astype(int)
    want = {"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"}
    want |= {"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"}
    assert [names[row] for row in rows] == [want.get(name, name) for name in VOC]


def test_what_was_matched_is_logged(caplog):
    with caplog.at_level("INFO", logger="ipg_jax"):
        match_classes({}, {}, ["Traffic_Light", "b"], ["traffic light", "new"])
    assert "1 of 2 classes matched by name: traffic light; start fresh: new" in caplog.text


def test_without_names_the_number_of_classes_must_be_right():
    fresh = {"params": {"head": {"class_logits": {"bias": jnp.zeros((2,))}}}}
    weights = Weights({"head/class_logits/bias": np.ones(3, np.float32)})
    with pytest.raises(ValueError, match=r"\(3,\) instead of \(2,\)"):
        initialize(fresh, weights, class_names=["a", "b"])
