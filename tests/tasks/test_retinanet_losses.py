"""What RetinaNet's losses are made of, for outputs that are given: no network is computed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise_batch import CLASSES, SIDE, GivenOutputs, ShallowBackbone, make_batch

from ipg_jax import ops
from ipg_jax.models import FPN, DenseOutputs, RetinaNetHead
from ipg_jax.ops import MatchState
from ipg_jax.tasks import RETINANET_IOU, RetinaNetTask
from ipg_jax.tasks.dense_losses import BOX_LOSSES, box_errors

KINDS, SHAPES = 2, [(8, 8), (4, 4)]


@functools.cache
def anchors() -> np.ndarray:
    """Of both levels, in the order of the head's outputs."""
    levels = ops.pyramid_anchors(SHAPES, [(8, 8), (16, 16)], [(16.0,), (32.0,)], (0.5, 1.0))
    return np.concatenate(levels)


def make_task(**kwargs) -> RetinaNetTask:
    model = GivenOutputs(
        ShallowBackbone(),
        FPN(in_features=("c3", "c4"), extra_levels=0),
        RetinaNetHead(num_classes=CLASSES, num_anchors=KINDS),
    )
    return RetinaNetTask(
        model=model, anchor_sizes=((16.0,), (32.0,)), anchor_ratios=(0.5, 1.0), **kwargs
    )


def random_outputs(seed: int = 0):
    """Logits and deltas of all anchors of one image."""
    rng = np.random.default_rng(seed)
    n = len(anchors())
    return rng.normal(-1, 1, (n, CLASSES)).astype("f4"), rng.normal(0, 0.2, (n, 4)).astype("f4")


def losses(task, batch, logits, deltas):
    """Losses of an image by the task, and the gradient of the class loss to the deltas."""

    @jax.jit
    def of_outputs(logits, deltas):
        ends = np.cumsum([KINDS * h * w for h, w in SHAPES])[:-1]
        parts = (jnp.split(x[None], ends, axis=1) for x in (logits, deltas))
        levels = tuple(map(DenseOutputs, *parts))
        _, metrics = task.loss({"params": {"outputs": levels}}, batch)
        return metrics["loss_class"], metrics

    (_, metrics), gradient = jax.value_and_grad(of_outputs, argnums=1, has_aux=True)(
        jnp.asarray(logits), jnp.asarray(deltas)
    )
    return {name: float(value) for name, value in metrics.items()}, gradient


def matched(batch):
    """The boxes and labels of each anchor, and whether it is positive and counted."""
    matches = ops.match_anchors(
        anchors(), batch.boxes[0], batch.valid[0] & ~batch.ignore[0],
        positive_threshold=0.5, negative_threshold=0.4, low_quality=True,
    )  # fmt: skip
    index, state = np.asarray(matches.index), np.asarray(matches.state)
    positive = state == MatchState.POSITIVE
    return batch.boxes[0][index], batch.labels[0][index], positive, state != MatchState.IGNORE


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_box_losses_are_of_encoded_or_of_decoded_boxes(kind):
    grid = np.float32([[0, 0, 16, 16], [4, 0, 12, 8]])
    boxes = np.float32([[2, 1, 14, 19], [4, 2, 11, 8]])
    deltas = np.float32([[0.1, -0.2, 0.3, 0.02], [0, 0.1, -0.2, 0.05]])
    encoded, decoded = ops.encode_boxes(boxes, grid), ops.decode_boxes(deltas, grid)
    want = {
        "l1": lambda: np.abs(deltas - encoded).sum(1),
        "smooth_l1": lambda: ops.smooth_l1_loss(deltas, encoded, beta=1 / 9).sum(1),
        "giou": lambda: ops.giou_loss(decoded, boxes),
        "diou": lambda: ops.diou_loss(decoded, boxes),
        "ciou": lambda: ops.ciou_loss(decoded, boxes),
        "nwd": lambda: ops.nwd_loss(decoded, boxes, 20.0),
    }[kind]()
    got = box_errors(kind, deltas, grid, boxes, nwd_constant=20.0)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_the_box_loss_is_the_mean_over_the_positives():
    batch, (logits, deltas) = make_batch(images=1), random_outputs()
    boxes, _, positive, _ = matched(batch)
    error = np.asarray(ops.nwd_loss(ops.decode_boxes(deltas, anchors()), boxes, 20.0))
    got, _ = losses(make_task(box_loss="nwd", nwd_constant=20.0), batch, logits, deltas)
    assert got["loss_box"] == pytest.approx(error[positive].mean(), rel=1e-5)
    assert got["positive_anchors"] == positive.sum()


@pytest.mark.parametrize("class_loss", ["quality_focal", "varifocal"])
def test_qualities_are_the_targets_of_the_right_class_alone(class_loss):
    batch, (logits, deltas) = make_batch(images=1), random_outputs()
    boxes, labels, positive, counted = matched(batch)
    quality = np.asarray(ops.paired_iou(ops.decode_boxes(deltas, anchors()), jnp.asarray(boxes)))
    assert (quality[positive] > 0.2).any()
    targets = np.zeros_like(logits)
    targets[positive, labels[positive]] = quality[positive]
    loss = ops.quality_focal_loss if class_loss == "quality_focal" else ops.varifocal_loss
    want = np.asarray(loss(logits, targets))[counted].sum() / positive.sum()
    got, gradient = losses(make_task(class_loss=class_loss), batch, logits, deltas)
    assert got["loss_class"] == pytest.approx(want, rel=1e-5)
    assert (gradient == 0).all()  # the qualities have none


def test_anchors_in_a_crowd_are_no_background():
    """As if their logits were so low that they cost nothing."""
    batch, (logits, deltas) = make_batch(images=1), random_outputs()
    crowd = np.float32([[0, 0, SIDE, 24]])
    crowded = batch.replace(
        boxes=np.concatenate([batch.boxes, crowd[None]], axis=1),
        labels=np.pad(batch.labels, [(0, 0), (0, 1)]),
        valid=np.pad(batch.valid, [(0, 0), (0, 1)], constant_values=True),
        ignore=np.pad(batch.ignore, [(0, 0), (0, 1)], constant_values=True),
    )
    plain, _ = losses(make_task(), crowded, logits, deltas)
    assert plain == pytest.approx(losses(make_task(), batch, logits, deltas)[0], rel=1e-6)

    _, _, positive, _ = matched(batch)
    shared = np.asarray(ops.pairwise_intersection(anchors(), crowd))[:, 0]
    covered = (shared >= 0.5 * np.asarray(ops.box_area(anchors()))) & ~positive
    assert covered.any()
    want, _ = losses(make_task(), batch, np.where(covered[:, None], -1e4, logits), deltas)
    ignoring = make_task(matcher=dataclasses.replace(RETINANET_IOU, ignore_overlap=0.5))
    got, _ = losses(ignoring, crowded, logits, deltas)
    assert got == pytest.approx(want, rel=1e-5)
    assert got["loss_class"] < plain["loss_class"]
