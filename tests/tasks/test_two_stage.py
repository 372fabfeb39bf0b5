import dataclasses
import functools

import jax
import jax.numpy as jnp
import noise_batch
import numpy as np
import pytest
from noise_batch import CLASSES, ShallowBackbone

from ipg_jax import Batch, ops
from ipg_jax.models import FPN, BoxHead, BoxOutputs, DenseOutputs, FasterRCNN, RPNHead
from ipg_jax.tasks import CASCADE_RCNN, FASTER_RCNN, Proposals, RoiHeads, Rois, TwoStageTask
from ipg_jax.tasks.roi_heads import refine

make_batch = functools.partial(noise_batch.make_batch, objects=3)


@functools.cache
def make_task(stages: int = 1) -> TwoStageTask:
    head = BoxHead(num_classes=CLASSES, fc_channels=16, num_fcs=1, class_agnostic=stages > 1)
    return TwoStageTask(
        model=FasterRCNN(
            backbone=ShallowBackbone(),
            fpn=FPN(channels=16, extra_levels=1, extra_source="pool"),
            rpn=RPNHead(num_anchors=1, channels=16),
            box_heads=(head,) * stages,
        ),
        anchor_sizes=((16.0,), (24.0,), (32.0,), (48.0,)),
        anchor_ratios=(1.0,),
        proposals=Proposals(
            candidates_per_level=(60, 40), per_image=(50, 30), anchors_per_image=32
        ),
        roi_heads=RoiHeads(stages=CASCADE_RCNN if stages == 3 else FASTER_RCNN, rois_per_image=16),
    )


@functools.cache
def fresh_variables(stages: int = 1):
    return make_task(stages).init(jax.random.key(0))


@functools.cache
def jitted(stages: int):
    task = make_task(stages)

    def loss(params, batch):
        variables = fresh_variables(stages) | {"params": params}
        return task.loss(variables, batch, rng=jax.random.key(1))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))


def losses(batch: Batch, stages: int = 1) -> dict[str, float]:
    (_, metrics), _ = jitted(stages)(fresh_variables(stages)["params"], batch)
    return {name: float(value) for name, value in metrics.items()}


def test_a_label_that_is_no_class_makes_loss_and_gradient_nan():
    batch = make_batch()
    batch.labels[0, 1] = CLASSES
    (loss, metrics), grads = jitted(1)(fresh_variables(1)["params"], batch)
    assert np.isnan(loss)
    assert np.isnan(metrics["loss"])
    assert np.isnan(grads["box_head"]["fc0"]["kernel"]).all()


def test_names_of_parameters():
    assert set(fresh_variables()["params"]) == {"backbone", "fpn", "rpn", "box_head"}
    heads = {"box_head0", "box_head1", "box_head2"}
    assert set(fresh_variables(3)["params"]) == {"backbone", "fpn", "rpn"} | heads
    assert fresh_variables()["params"]["box_head"]["fc0"]["kernel"].shape == (7 * 7 * 16, 16)


@pytest.mark.parametrize("stages", [1, 3])
def test_every_parameter_learns_and_the_parts_make_the_loss(stages):
    (loss, metrics), grads = jitted(stages)(fresh_variables(stages)["params"], make_batch())
    still = [
        jax.tree_util.keystr(path)
        for path, grad in jax.tree_util.tree_leaves_with_path(grads)
        if not jnp.abs(grad).max() > 0
    ]
    assert still == []
    suffixes = [""] if stages == 1 else ["_0", "_1", "_2"]
    parts = metrics["loss_objectness"] + metrics["loss_proposal"]
    for stage, suffix in zip(make_task(stages).roi_heads.stages, suffixes, strict=True):
        head = metrics[f"loss_class{suffix}"] + metrics[f"loss_box{suffix}"]
        parts += stage.loss_weight * head
        assert metrics[f"positive_rois{suffix}"] > 0
    np.testing.assert_allclose(loss, parts, rtol=1e-6)


def test_the_fresh_losses_are_those_of_guessing():
    # Small last layers: objectness is 1/2, the classes are equally likely.
    metrics = losses(make_batch())
    assert metrics["loss_objectness"] == pytest.approx(np.log(2), abs=0.02)
    assert metrics["loss_class"] == pytest.approx(np.log(CLASSES + 1), abs=0.1)


def test_padding_and_ignored_objects_change_nothing():
    batch = make_batch()
    off, on = np.array([[True, True, False]] * 2), np.array([[False, False, True]] * 2)
    padded = losses(batch.replace(valid=off))
    assert losses(batch.replace(ignore=on)) == padded
    moved = np.array(batch.boxes)
    moved[:, 2] = [0.0, 0.0, 60.0, 60.0]
    assert losses(batch.replace(boxes=moved, valid=off)) == padded
    assert losses(batch) != padded


def test_images_of_weight_zero_count_for_nothing():
    batch = make_batch()
    spoilt = jax.tree.map(lambda x: np.array(x), batch)
    spoilt.boxes[1] = 0.0
    spoilt.valid[1] = False
    spoilt.pyramid[0][1] = 0
    spoilt.weight[1] = 0.0
    other = make_batch(seed=5)
    other = jax.tree.map(lambda a, b: np.concatenate([a[:1], b[1:]]), batch, other)
    other.weight[1] = 0.0
    assert losses(spoilt) == pytest.approx(losses(other), rel=1e-6)
    assert losses(batch)["loss"] != losses(spoilt)["loss"]


def test_without_objects_there_is_only_background_to_learn():
    batch = make_batch()
    metrics = losses(batch.replace(valid=np.zeros_like(batch.valid)))
    assert metrics["loss_box"] == metrics["loss_proposal"] == metrics["positive_rois"] == 0
    assert np.isfinite(metrics["loss"])


def test_samples_need_a_key():
    with pytest.raises(ValueError, match="rng="):
        make_task().loss(fresh_variables(), make_batch())


def test_stages_and_heads_must_agree():
    cascade = RoiHeads(stages=CASCADE_RCNN)
    with pytest.raises(ValueError, match="3 stages for 1 box heads"):
        dataclasses.replace(make_task(), roi_heads=cascade)
    model = make_task().model
    with pytest.raises(ValueError, match="class_agnostic"):
        dataclasses.replace(
            make_task(), roi_heads=cascade, model=model.clone(box_heads=model.box_heads * 3)
        )


def test_proposals_by_hand():
    proposals = Proposals(candidates_per_level=(2, 2), per_image=(4, 3))
    anchors = (
        np.float32([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]]),
        np.float32([[0, 0, 10, 10]]),
        np.float32([[70, 0, 80, 10]]),  # outside of the image: of no width when clipped
        np.float32([[60, 60, 80, 80]]),
    )
    logits = ([3.0, 2.0, 1.0], [2.5], [9.0], [-1.0])
    dense = tuple(
        DenseOutputs(np.float32(level)[None, :, None], np.zeros((1, len(level), 4), np.float32))
        for level in logits
    )
    select = jax.jit(functools.partial(proposals.select, train=True))
    found = select(dense, anchors, np.int32([[64, 64]]))
    # Of the first level the two best, of which the second overlaps the first; the third level's
    # has no extent; levels do not suppress each other.
    np.testing.assert_array_equal(found.valid, [[True, True, True, False]])
    np.testing.assert_allclose(
        found.boxes[0], [[0, 0, 10, 10], [0, 0, 10, 10], [60, 60, 64, 64], [0, 0, 0, 0]]
    )


def test_rois_hold_the_objects_and_at_most_a_quarter_of_positives():
    batch = make_batch(images=1)
    far = jnp.tile(jnp.array([0.0, 0.0, 3.0, 3.0]), (1, 50, 1))
    proposals = Rois(far, jnp.arange(50)[None] < 20)
    rois = RoiHeads(rois_per_image=16).sample(
        proposals, batch, jax.random.split(jax.random.key(0), 1)
    )
    positive = ops.pairwise_iou(rois.boxes[0], batch.boxes[0]).max(1) >= 0.5
    assert positive.sum() == 3  # the objects themselves, of at most 4
    assert rois.valid.sum() == 16


def test_refined_rois_by_hand():
    rois = Rois(jnp.array([[[10.0, 10, 20, 20], [0, 0, 10, 10]]]), jnp.array([[True, False]]))
    # With weights (10, 10, 5, 5): half a width to the right, twice as high.
    deltas = jnp.array([5.0, 0.0, 0.0, 5 * np.log(2)])
    outputs = BoxOutputs(jnp.zeros((1, 2, 4)), jnp.broadcast_to(deltas, (1, 2, 1, 4)))
    refined = refine(rois, outputs, CASCADE_RCNN[0].weights, jnp.array([[64, 22]]))
    np.testing.assert_allclose(refined.boxes[0], [[15, 5, 22, 25], [0, 0, 0, 0]], rtol=1e-6)
    np.testing.assert_array_equal(refined.valid, rois.valid)


def test_detections_by_hand():
    task = dataclasses.replace(make_task(), score_threshold=0.3, max_detections=3)
    rois = Rois(
        jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 11], [30, 30, 40, 40], [5, 5, 6, 6]]),
        jnp.array([True, True, True, False]),
    )
    scores = jnp.array(
        [[0.5, 0.4, 0.0, 0.1], [0.6, 0.0, 0.0, 0.4], [0.0, 0.0, 0.2, 0.8], [0.9, 0.9, 0.9, 0.0]]
    )
    # Class 1 of the first roi moves by a tenth of the width.
    deltas = jnp.zeros((4, CLASSES, 4)).at[0, 1, 0].set(1.0)
    size = jnp.array([64, 64])
    one = jax.tree.map(lambda x: x[None], (deltas, scores, rois, size))
    boxes, scores, labels = RoiHeads().candidates(*one)
    found = task.select(boxes[0], scores[0], labels[0], size)
    np.testing.assert_array_equal(found.valid, [True, True, False])
    np.testing.assert_allclose(found.boxes[:2], [[0, 0, 10, 11], [1, 0, 11, 10]], atol=1e-5)
    np.testing.assert_allclose(found.scores[:2], [0.6, 0.4])
    np.testing.assert_array_equal(found.labels[:2], [0, 1])


@pytest.mark.parametrize("stages", [1, 3])
def test_prediction_is_padded_and_inside_the_image(stages):
    batch = make_batch()
    size = np.array([[64, 64], [50, 40]], np.int32)
    task = dataclasses.replace(make_task(stages), score_threshold=0.2)
    found = jax.device_get(jax.jit(task.predict)(fresh_variables(stages), batch.pyramid, size))
    assert found.boxes.shape == (2, 100, 4)
    assert found.valid.any(axis=1).all()
    for boxes, valid, (height, width) in zip(found.boxes, found.valid, size, strict=True):
        assert (boxes[valid] >= 0).all()
        assert (boxes[valid] <= np.array([width, height, width, height])).all()
        assert (boxes[~valid] == 0).all()
