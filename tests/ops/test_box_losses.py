import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import ops


def parts(box, target):
    """In float64: IoU, distance of the centres, diagonal of the hull, and angles of the shapes."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = np.asarray([box, target], np.float64)
    shared = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    iou = shared / ((x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - shared)
    distance = np.hypot((x1 + x2 - u1 - u2) / 2, (y1 + y2 - v1 - v2) / 2)
    diagonal = np.hypot(max(x2, u2) - min(x1, u1), max(y2, v2) - min(y1, v1))
    return (
        iou,
        distance,
        diagonal,
        np.arctan((x2 - x1) / (y2 - y1)),
        np.arctan((u2 - u1) / (v2 - v1)),
    )


def slow_diou(box, target, _):
    iou, distance, diagonal, *_ = parts(box, target)
    return 1 - iou + distance**2 / diagonal**2


def slow_ciou(box, target, start):
    """`start` is the box at which alpha, a constant to the gradient, is taken."""

    def shape(box):
        *_, angle, wanted = parts(box, target)
        return 4 / np.pi**2 * (wanted - angle) ** 2

    iou = parts(start, target)[0]
    alpha = shape(start) / (1 - iou + shape(start))
    return slow_diou(box, target, None) + alpha * shape(box)


def slow_nwd(box, target, _):
    (x1, y1, x2, y2), (u1, v1, u2, v2) = np.asarray([box, target], np.float64)
    _, distance, *_ = parts(box, target)
    sides = ((x2 - x1 - u2 + u1) ** 2 + (y2 - y1 - v2 + v1) ** 2) / 4
    return 1 - np.exp(-np.sqrt(distance**2 + sides) / 12.7)


LOSSES = {
    "diou": (ops.diou_loss, slow_diou),
    "ciou": (ops.ciou_loss, slow_ciou),
    "nwd": (ops.nwd_loss, slow_nwd),
}


def random_pairs(n=40):
    """Boxes of 2 to 30 pixels; most of them overlap."""
    rng = np.random.default_rng(0)
    center, size = rng.uniform(0, 20, (2, n, 2)), rng.uniform(2, 30, (2, n, 2))
    return np.concatenate([center - size / 2, center + size / 2], axis=-1).astype(np.float32)


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_match_a_slow_twin(name):
    loss, slow = LOSSES[name]
    boxes, targets = random_pairs()
    value, pull = jax.vjp(lambda boxes: loss(boxes, targets), boxes)
    (gradient,) = pull(jnp.ones(len(boxes)))
    for i, (box, target) in enumerate(zip(boxes.astype(np.float64), targets, strict=True)):
        np.testing.assert_allclose(value[i], slow(box, target, box), rtol=1e-5, atol=1e-6)
        steps = 1e-5 * np.eye(4)
        differences = [
            (slow(box + step, target, box) - slow(box - step, target, box)) / 2e-5 for step in steps
        ]
        np.testing.assert_allclose(gradient[i], differences, rtol=1e-3, atol=1e-5)


def test_distances_by_hand():
    boxes = np.float32([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 3, 1]])
    targets = np.float32([[0, 0, 2, 2], [6, 0, 8, 2], [0, 0, 1, 3]])
    # Equal; centres 6 apart and a hull of 8 by 2; IoU 1/5, centres sqrt(2) apart, a hull of 3 by 3.
    want = [0, 1 + 36 / 68, 1 - 1 / 5 + 2 / 18]
    np.testing.assert_allclose(ops.diou_loss(boxes, targets), want, atol=1e-6)
    # The shapes differ in the last: the angles are arctan 3 and arctan 1/3.
    v = 4 / np.pi**2 * (np.arctan(3) - np.arctan(1 / 3)) ** 2
    want[2] += v**2 / (1 - 1 / 5 + v)
    np.testing.assert_allclose(ops.ciou_loss(boxes, targets), want, atol=1e-6)
    # sqrt(2 + (2^2 + 2^2) / 4) = 2.
    want = [0, 1 - np.exp(-6 / 4), 1 - np.exp(-2 / 4)]
    np.testing.assert_allclose(ops.nwd_loss(boxes, targets, 4.0), want, atol=1e-6)


@pytest.mark.parametrize("name", [*LOSSES, "giou"])
def test_boxes_without_extent_have_finite_losses_and_gradients(name):
    loss = LOSSES[name][0] if name in LOSSES else ops.giou_loss
    boxes = np.float32(
        [[1, 1, 1, 1], [0, 0, 0, 0], [2, 2, 5, 5], [2, 2, 2, 5], [0, 0, 1e4, 1e4], [1, 1, 1, 1]]
    )
    targets = np.float32(
        [[1, 1, 1, 1], [3, 3, 3, 3], [4, 4, 4, 4], [2, 2, 5, 2], [0, 0, 1e-3, 1e-3], [0, 0, 9, 9]]
    )
    value, pull = jax.vjp(loss, boxes, targets)
    assert np.isfinite(value).all()
    assert all(np.isfinite(x).all() for x in pull(jnp.ones(len(boxes))))


def test_only_losses_of_distances_move_a_box_that_is_apart():
    box, target = np.float32([[0, 0, 2, 2]]), np.float32([[8, 0, 10, 2]])

    def pull(function):
        return jax.jit(jax.grad(lambda box: function(box, target).sum()))(box)[0]

    assert (pull(ops.paired_iou) == 0).all()
    for loss, _ in LOSSES.values():
        gradient = pull(loss)
        assert gradient[0] + gradient[2] < 0  # to the right
