import box_strategies
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given

from ipg_jax import ops


def test_iou_by_hand():
    a = np.float32([[0, 0, 2, 2], [1, 1, 1, 1]])
    b = np.float32([[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [5, 5, 6, 6], [1, 1, 1, 1]])
    np.testing.assert_array_equal(
        ops.pairwise_iou(a, b), np.float32([[1, 1 / 3, 0, 0, 0], [0, 0, 0, 0, 0]])
    )


def test_pairs_of_boxes_by_hand():
    a = np.float32([[0, 0, 2, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    b = np.float32([[1, 0, 3, 2], [1, 1, 2, 4], [0, 0, 2, 2]])
    np.testing.assert_array_equal(ops.paired_intersection(a, b), [2, 1, 0])
    np.testing.assert_array_equal(ops.paired_iou(a, b), np.float32([2 / 6, 1 / 6, 0]))
    np.testing.assert_array_equal(ops.paired_intersection(a, b[:1]), [2, 2, 0])
    np.testing.assert_array_equal(
        ops.paired_iou(a[:, None], b[None]), np.asarray(ops.pairwise_iou(a, b))
    )


def test_matches_torchvision(golden):
    np.testing.assert_array_equal(ops.pairwise_iou(golden["a"], golden["b"]), golden["iou"])
    np.testing.assert_allclose(ops.box_area(golden["a"]), golden["area"], rtol=1e-6)
    np.testing.assert_array_equal(
        ops.clip_boxes(golden["a"], golden["image_size"]), golden["clipped"]
    )


@given(box_strategies.boxes(6), box_strategies.boxes(5))
def test_iou_properties(a, b):
    iou = np.asarray(ops.pairwise_iou(a, b))
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, np.asarray(ops.pairwise_iou(b, a)).T)
    itself = np.asarray(ops.pairwise_iou(a, a))
    np.testing.assert_array_equal(np.diag(itself), np.asarray(ops.box_area(a)) > 0)
    np.testing.assert_array_equal(jax.jit(ops.pairwise_iou)(a, b), iou)


def test_compiled_overlaps_are_the_same_to_the_last_bit():
    # Matching relies on it: the best overlap of a box is found again by `==`.
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 1000, (2, 3000, 2)).astype(np.float32)
    side = rng.uniform(1, 300, (2, 3000, 2)).astype(np.float32)
    a, b = np.concatenate([corner, corner + side], axis=-1)
    eager = ops.pairwise_iou(a[:100], b)
    np.testing.assert_array_equal(jax.jit(ops.pairwise_iou)(a[:100], b), eager)


def test_no_intermediate_is_larger_than_the_result():
    jaxpr = jax.make_jaxpr(ops.pairwise_iou)(jnp.zeros((50, 4)), jnp.zeros((70, 4)))
    assert max(v.aval.size for eqn in jaxpr.jaxpr.eqns for v in eqn.outvars) == 50 * 70


def test_empty_and_batched():
    empty, boxes = np.zeros((0, 4), np.float32), np.float32([[0, 0, 2, 2], [1, 1, 4, 4]])
    assert ops.pairwise_iou(empty, boxes).shape == (0, 2)
    assert ops.pairwise_iou(boxes, empty).shape == (2, 0)
    batch = np.stack([boxes, boxes + 1, boxes * 2])
    each = [ops.pairwise_iou(boxes, other) for other in batch]
    mapped = jax.vmap(ops.pairwise_iou, in_axes=(None, 0))(boxes, batch)
    np.testing.assert_array_equal(mapped, np.stack(each))


def test_gradients_of_degenerate_boxes_are_finite():
    a = np.float32([[1, 1, 1, 1], [0, 0, 2, 2], [3, 3, 2, 2]])
    gradient = jax.jit(jax.grad(lambda a, b: ops.pairwise_iou(a, b).sum(), argnums=(0, 1)))(a, a)
    assert np.isfinite(np.asarray(gradient)).all()


def test_area_and_sizes():
    boxes = np.float32([[[1, 2, 4, 8], [0, 0, 0, 5]], [[3, 3, 2, 2], [0, 0, 0.5, 0.5]]])
    np.testing.assert_array_equal(ops.box_area(boxes), [[18, 0], [0, 0.25]])
    np.testing.assert_array_equal(ops.box_sizes(boxes)[0, 0], [6, 3])


def test_clip_takes_height_then_width():
    boxes = np.float32([[-1, -1, 100, 100]])
    np.testing.assert_array_equal(ops.clip_boxes(boxes, (30, 40)), [[0, 0, 40, 30]])
    np.testing.assert_array_equal(ops.clip_boxes(boxes, np.int32([30, 40])), [[0, 0, 40, 30]])
