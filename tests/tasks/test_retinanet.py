import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noise_batch import CLASSES, SIDE, GivenOutputs, ShallowBackbone, make_batch

from ipg_jax import Batch, Detections, kernels, ops
from ipg_jax.models import FPN, DenseOutputs, RetinaNet, RetinaNetHead
from ipg_jax.tasks import RetinaNetTask

ONE_EACH = slice(0, 1), slice(1, 2)
"""The first image of a batch, and the second."""


@functools.cache
def make_task() -> RetinaNetTask:
    return RetinaNetTask(
        model=RetinaNet(
            backbone=ShallowBackbone(),
            fpn=FPN(channels=32, extra_levels=0),
            head=RetinaNetHead(num_classes=CLASSES, num_anchors=2, channels=32, num_convs=1),
        ),
        anchor_sizes=((16.0,), (32.0,), (64.0,)),
        anchor_ratios=(0.5, 1.0),
    )


@functools.cache
def fresh_variables():
    return make_task().init(jax.random.key(0))


@functools.cache
def jitted_loss():
    return jax.jit(make_task().loss)


def losses(batch: Batch) -> dict[str, float]:
    _, metrics = jitted_loss()(fresh_variables(), batch)
    return {name: float(value) for name, value in metrics.items()}


def anchors() -> list[np.ndarray]:
    levels = ops.pyramid_anchors(
        [(8, 8), (4, 4), (2, 2)],
        [(8, 8), (16, 16), (32, 32)],
        make_task().anchor_sizes,
        make_task().anchor_ratios,
    )
    return [np.asarray(level) for level in levels]


def slow_losses(outputs, boxes, labels) -> tuple[float, float, int]:
    """One image's losses, box by box, as torchvision's RetinaNet defines them."""

    def iou(a, b):
        w = min(a[2], b[2]) - max(a[0], b[0])
        h = min(a[3], b[3]) - max(a[1], b[1])
        if w <= 0 or h <= 0:
            return 0.0
        area = lambda x: (x[2] - x[0]) * (x[3] - x[1])  # noqa: E731
        return w * h / (area(a) + area(b) - w * h)

    grid = np.concatenate(anchors())
    logits = np.concatenate([np.asarray(level.logits, np.float64) for level in outputs])
    deltas = np.concatenate([np.asarray(level.deltas, np.float64) for level in outputs])
    overlap = np.array([[iou(a, b) for b in boxes] for a in grid])
    best = overlap.argmax(axis=1)
    positive = overlap.max(axis=1) >= 0.5
    ignored = ~positive & (overlap.max(axis=1) >= 0.4)
    for column in range(len(boxes)):
        ties = overlap[:, column] == overlap[:, column].max()
        positive |= ties
        ignored &= ~ties
    class_loss = box_loss = 0.0
    for i, anchor in enumerate(grid):
        if ignored[i]:
            continue
        for k in range(CLASSES):
            target = positive[i] and labels[best[i]] == k
            p = 1 / (1 + np.exp(-logits[i, k]))
            pt, alpha = (p, 0.25) if target else (1 - p, 0.75)
            class_loss += -alpha * (1 - pt) ** 2 * np.log(pt)
        if positive[i]:
            box = boxes[best[i]]
            size, side = anchor[2:] - anchor[:2], box[2:] - box[:2]
            shift = ((box[:2] + box[2:]) / 2 - (anchor[:2] + anchor[2:]) / 2) / size
            target = np.concatenate([shift, np.log(side / size)])
            box_loss += np.abs(deltas[i] - target).sum()
    count = int(positive.sum())
    return class_loss / max(count, 1), box_loss / max(count, 1), count


def test_losses_equal_a_slow_twin():
    batch = make_batch(images=1)
    task, variables = make_task(), fresh_variables()
    pyramid = ops.normalize_pyramid(
        batch.pyramid, batch.image_size, task.image_mean, task.image_std
    )
    outputs = jax.jit(task.model.apply)(variables, pyramid)
    one = jax.tree.map(lambda x: x[0], outputs)
    class_loss, box_loss, count = slow_losses(one, batch.boxes[0], batch.labels[0])
    got = losses(batch)
    assert got["positive_anchors"] == count
    assert got["loss_class"] == pytest.approx(class_loss, rel=1e-4)
    assert got["loss_box"] == pytest.approx(box_loss, rel=1e-4)
    assert got["loss"] == pytest.approx(class_loss + box_loss, rel=1e-4)


def test_batch_loss_is_the_mean_of_the_images():
    batch = make_batch(images=2)
    singles = [losses(jax.tree.map(operator.itemgetter(rows), batch)) for rows in ONE_EACH]
    got = losses(batch)
    assert got["loss"] == pytest.approx((singles[0]["loss"] + singles[1]["loss"]) / 2, rel=1e-4)


def test_an_object_counts_as_much_among_many_as_alone_by_the_batchs_average():
    """Sums of losses over a sum of positives: each image's mean weighs by its positives."""
    batch = make_batch(images=3).replace(weight=np.array([1, 1, 0], np.float32))
    one, other = (losses(jax.tree.map(operator.itemgetter(rows), batch)) for rows in ONE_EACH)
    positives = [single["positive_anchors"] for single in (one, other)]
    assert positives[0] != positives[1]
    task = dataclasses.replace(make_task(), average="batch")
    _, got = jax.jit(task.loss)(fresh_variables(), batch)
    for name in ("loss_class", "loss_box", "loss"):
        want = np.average([one[name], other[name]], weights=positives)
        assert float(got[name]) == pytest.approx(want, rel=1e-4)
    assert float(got["positive_anchors"]) == np.mean(positives)
    blank = batch.replace(valid=np.zeros_like(batch.valid))
    _, got = jax.jit(task.loss)(fresh_variables(), blank)
    assert np.isfinite(float(got["loss"]))
    assert got["positive_anchors"] == 0


def test_images_of_weight_zero_count_for_nothing():
    batch = make_batch(images=2)
    first = losses(jax.tree.map(lambda x: x[:1], batch))
    got = losses(batch.replace(weight=np.array([1, 0], np.float32)))
    assert got["loss"] == pytest.approx(first["loss"], rel=1e-4)
    blank = losses(batch.replace(weight=np.zeros(2, np.float32)))
    assert blank["loss"] == 0.0


@pytest.mark.parametrize("padding", [0.0, 1e4])
def test_padded_and_ignored_objects_change_nothing(padding: float):
    batch = make_batch()
    want = losses(batch)
    rows = np.full((2, 3, 4), padding, np.float32)
    false, true = np.zeros((2, 3), bool), np.ones((2, 3), bool)
    grown = batch.replace(
        boxes=np.concatenate([batch.boxes, rows], axis=1),
        labels=np.concatenate([batch.labels, np.zeros((2, 3), np.int32)], axis=1),
        valid=np.concatenate([batch.valid, false], axis=1),
        ignore=np.concatenate([batch.ignore, false], axis=1),
    )
    assert losses(grown) == pytest.approx(want, rel=1e-5)
    crowds = grown.replace(
        valid=np.concatenate([batch.valid, true], axis=1),
        ignore=np.concatenate([batch.ignore, true], axis=1),
    )
    assert losses(crowds) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("label", [-1, CLASSES, 2**31 - 1])
def test_a_label_that_is_no_class_makes_the_loss_nan_where_it_counts(label: int):
    batch = make_batch()
    batch.labels[1, 2] = label
    assert np.isnan(losses(batch)["loss"])
    row = np.zeros((2, 4), bool)
    row[1, 2] = True
    for unused in (
        batch.replace(valid=~row),
        batch.replace(ignore=row),
        batch.replace(weight=np.array([1, 0], np.float32)),
    ):
        assert np.isfinite(losses(unused)["loss"])


def test_images_without_objects_have_finite_losses_and_gradients():
    batch = make_batch().replace(
        valid=np.zeros((2, 4), bool), boxes=np.zeros((2, 4, 4), np.float32)
    )
    variables = fresh_variables()

    def loss(params):
        return make_task().loss(variables | {"params": params}, batch)[0]

    value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
    assert np.isfinite(value)
    assert value > 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_loss_in_jit_equals_eager():
    task, batch = make_task(), make_batch()
    # Of one level: eagerly each shape of each operation is a program of its own.
    model = task.model.clone(fpn=task.model.fpn.clone(in_features=("c4",)))
    task = dataclasses.replace(task, model=model, anchor_sizes=((32.0,),))
    variables = fresh_variables()
    with kernels.use("reference"):  # the fewest operations
        eager, _ = task.loss(variables, batch)
    jitted, metrics = jax.jit(task.loss)(variables, batch)
    assert metrics["positive_anchors"] > 0
    assert float(jitted) == pytest.approx(float(eager), rel=1e-5)


def predict(outputs: tuple[DenseOutputs, ...], **kwargs) -> Detections:
    """The detections that the task makes of a model's outputs."""
    task = make_task()
    images = len(outputs[0].logits)
    model = GivenOutputs(task.model.backbone, task.model.fpn, task.model.head)
    task = dataclasses.replace(task, model=model, **kwargs)
    pyramid = tuple(np.zeros((images, SIDE >> i, SIDE >> i, 3), np.uint8) for i in range(2))
    size = np.full((images, 2), SIDE, np.int32)
    found = jax.jit(task.predict)({"params": {"outputs": outputs}}, pyramid, size)
    return jax.device_get(found)


def outputs_with(boxes: list[tuple[int, int, float]]) -> tuple[DenseOutputs, ...]:
    """Head outputs in which anchor `row` of level 0 has probability `p` of class `k`."""
    logits = [np.full((1, len(level), CLASSES), -20.0, np.float32) for level in anchors()]
    for row, k, p in boxes:
        logits[0][0, row, k] = np.log(p / (1 - p))
    return tuple(
        DenseOutputs(jnp.asarray(x), jnp.zeros((*x.shape[:2], 4), jnp.float32)) for x in logits
    )


def detect(outputs, **kwargs):
    found = predict(outputs, **kwargs)
    keep = found.valid[0]
    return found.boxes[0][keep], found.scores[0][keep], found.labels[0][keep]


def test_detections_by_hand():
    grid = anchors()[0]
    # Rows 41 and 43 are square anchors of neighbouring cells: IoU (16 - 8) * 16 / ... = 1/3.
    found = detect(outputs_with([(41, 1, 0.9), (43, 1, 0.8), (41, 2, 0.5), (90, 0, 0.04)]))
    boxes, scores, labels = found
    np.testing.assert_allclose(scores, [0.9, 0.8, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(labels, [1, 1, 2])
    np.testing.assert_allclose(boxes, np.clip(grid[[41, 43, 41]], 0, SIDE), atol=1e-4)


def test_nms_is_per_class_and_limits_hold():
    outputs = outputs_with([(41, 1, 0.9), (43, 1, 0.8), (41, 2, 0.5)])
    _, scores, labels = detect(outputs, nms_iou=0.3)
    np.testing.assert_allclose(scores, [0.9, 0.5], rtol=1e-5)
    np.testing.assert_array_equal(labels, [1, 2])
    _, scores, _ = detect(outputs, max_detections=1)
    np.testing.assert_allclose(scores, [0.9], rtol=1e-5)


@pytest.mark.parametrize("candidates", [50, 100, 150, 1000])
def test_candidates_are_those_of_one_sort_over_all_pairs(candidates: int):
    """With more and with fewer of them than a level's positions, anchors and pairs."""
    rng = np.random.default_rng(0)
    images, grid = 2, anchors()[0]
    logits = rng.normal(size=(images, len(grid), CLASSES)).astype(np.float32)
    deltas = rng.normal(0, 0.1, (images, len(grid), 4)).astype(np.float32)
    first = DenseOutputs(jnp.asarray(logits), jnp.asarray(deltas))
    others = jax.tree.map(lambda x: jnp.repeat(x, images, axis=0), outputs_with([])[1:])
    found = predict(
        (first, *others),
        candidates_per_level=candidates,
        score_threshold=1e-3,  # the other levels' scores are below
        nms_iou=1.0,  # nothing overlaps by more
        max_detections=400,
    )
    for image in range(images):
        keep = found.valid[image]
        order = np.argsort(-logits[image].reshape(-1), kind="stable")[:candidates]
        row = order // CLASSES
        np.testing.assert_array_equal(found.labels[image][keep], order % CLASSES)
        probabilities = jax.nn.sigmoid(logits[image].reshape(-1)[order])
        np.testing.assert_allclose(found.scores[image][keep], probabilities, rtol=1e-6)
        decoded = ops.decode_boxes(jnp.asarray(deltas[image][row]), jnp.asarray(grid[row]))
        clipped = np.clip(decoded, 0, SIDE)
        np.testing.assert_allclose(found.boxes[image][keep], clipped, rtol=1e-5, atol=1e-4)


def test_boxes_stay_inside_the_content():
    batch = make_batch()
    task = dataclasses.replace(make_task(), score_threshold=0.0)
    size = jnp.array([[40, 50], [64, 30]], jnp.int32)
    found = jax.jit(task.predict)(fresh_variables(), batch.pyramid, size)
    assert found.valid.all()
    assert found.boxes.shape == (2, 100, 4)
    limits = np.asarray(size)[:, None, [1, 0]]
    assert (np.asarray(found.boxes[..., :2]) >= 0).all()
    assert (np.asarray(found.boxes[..., 2:]) <= limits).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor_sizes": ((16.0,),)}, "levels"),
        ({"anchor_ratios": (1.0,)}, "num_anchors"),
        ({"box_loss": "l2"}, "box_loss"),
        ({"class_loss": "bce"}, "class_loss"),
    ],
)
def test_tasks_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(Exception, match=message):
        dataclasses.replace(make_task(), **change)


def test_a_batch_with_too_few_levels_is_refused():
    batch = make_batch()
    with pytest.raises(ValueError, match="2 pyramid levels"):
        jax.eval_shape(make_task().loss, {}, batch.replace(pyramid=batch.pyramid[:1]))
