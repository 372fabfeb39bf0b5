import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.tasks.postprocess import select_detections

# Two boxes of class 0 with IoU 4/10, one of class 1 on top of the second, and one half outside.
BOXES = np.float32([[0, 0, 7, 1], [3, 0, 10, 1], [3, 0, 10, 1], [12, 2, 20, 6]])
SCORES = np.float32([0.9, 0.8, 0.3, 0.5])
LABELS = np.int32([0, 0, 1, 0])
SIZE = np.int32([4, 16])
SETTINGS = {"score_threshold": 0.05, "nms_iou": 0.3, "max_detections": 5}


def select(scores=SCORES, **settings):
    found = select_detections(BOXES, scores, LABELS, SIZE, **(SETTINGS | settings))
    assert found.boxes.shape == (settings.get("max_detections", 5), 4)
    keep = np.asarray(found.valid)
    for padding in (found.boxes, found.scores, found.labels):
        assert not np.asarray(padding)[~keep].any()
    return tuple(np.asarray(x)[keep] for x in (found.boxes, found.scores, found.labels))


def test_greedy_by_hand():
    boxes, scores, labels = select()
    np.testing.assert_array_equal(boxes, [[0, 0, 7, 1], [12, 2, 16, 4], [3, 0, 10, 1]])
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.3])
    np.testing.assert_array_equal(labels, [0, 0, 1])
    assert len(select(nms_iou=0.4)[0]) == 4  # only a larger overlap suppresses


def test_soft_suppression_by_hand():
    boxes, scores, labels = select(nms="soft_linear")
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.8 * 0.6, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(boxes[2], BOXES[1])
    np.testing.assert_array_equal(labels, [0, 0, 0, 1])
    _, scores, _ = select(nms="soft_gaussian", nms_sigma=0.2)
    np.testing.assert_allclose(scores, [0.9, 0.5, 0.8 * np.exp(-0.8), 0.3], rtol=1e-6)


@pytest.mark.parametrize("nms", ["greedy", "soft_linear"])
def test_threshold_limit_and_padding(nms):
    assert select(nms=nms, max_detections=2)[1].tolist() == np.float32([0.9, 0.5]).tolist()
    assert len(select(nms=nms, score_threshold=0.49)[1]) == 2  # 0.8 is removed, or falls to 0.48
    padded = np.float32([0.9, -np.inf, np.nan, 0.5])
    assert len(select(padded, nms=nms, score_threshold=-np.inf)[1]) == 2


def test_images_of_a_batch_are_independent():
    def one(scores):
        return select_detections(BOXES, scores, LABELS, SIZE, **SETTINGS)

    scores = jnp.stack([SCORES, SCORES[::-1]])
    together = jax.vmap(one)(scores)
    alone = jax.tree.map(lambda *images: jnp.stack(images), *map(one, scores))
    jax.tree.map(np.testing.assert_array_equal, together, alone)


def test_an_unknown_suppression_is_refused():
    with pytest.raises(Exception, match="nms"):
        select(nms="fast")
