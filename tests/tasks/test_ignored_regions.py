"""Regions to ignore in a two-stage detector: the anchors of the RPN and the rois of its heads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from noise_batch import CLASSES, make_batch

from ipg_jax import ops
from ipg_jax.models import BoxOutputs, DenseOutputs
from ipg_jax.ops import MatchState
from ipg_jax.tasks import CASCADE_RCNN, IouMatcher, Proposals, RoiHeads, Rois

KEYS = jax.random.split(jax.random.key(0), 1)


def crowded_batch():
    """Two objects of 16 pixels, and a crowd over the lower half of 64x64 pixels."""
    boxes = np.float32([[[0, 0, 16, 16], [40, 8, 56, 24], [0, 32, 64, 64]]])
    ignore = np.array([[False, False, True]])
    labels = np.array([[0, 1, 0]], np.int32)
    return make_batch(images=1, objects=3).replace(boxes=boxes, ignore=ignore, labels=labels)


def test_anchors_in_a_crowd_are_not_sampled():
    """Two kinds on 8x8 and 4x4 positions, so few that all of them are drawn."""
    batch = crowded_batch()
    levels = ops.pyramid_anchors(
        [(8, 8), (4, 4)], [(8, 8), (16, 16)], [(16.0,), (32.0,)], (0.5, 1.0)
    )
    every = np.concatenate(levels)
    logits = np.random.default_rng(0).normal(size=len(every)).astype("f4")
    dense = tuple(
        DenseOutputs(part[None, :, None], jnp.zeros((1, len(part), 4)))
        for part in jnp.split(logits, [128])
    )
    matches = ops.match_anchors(
        every, batch.boxes[0], ~batch.ignore[0],
        positive_threshold=0.7, negative_threshold=0.3, low_quality=True,
    )  # fmt: skip
    state = np.asarray(matches.state)
    shared = np.asarray(ops.pairwise_intersection(every, batch.boxes[0, 2:]))[:, 0]
    covered = shared >= 0.5 * np.asarray(ops.box_area(every))
    cross_entropy = np.asarray(
        optax.sigmoid_binary_cross_entropy(logits, (state == MatchState.POSITIVE).astype("f4"))
    )
    for overlap, ignored in ((None, False), (0.5, covered & (state != MatchState.POSITIVE))):
        matcher = IouMatcher(foreground_iou=0.7, background_iou=0.3, ignore_overlap=overlap)
        proposals = Proposals(matcher=matcher, anchors_per_image=1000)
        loss = jax.jit(functools.partial(proposals.losses, per_position=2))
        metrics = loss(dense, levels, batch, KEYS)
        counted = (state != MatchState.IGNORE) & ~np.asarray(ignored)
        np.testing.assert_allclose(
            metrics["loss_objectness"], cross_entropy[counted].mean(), rtol=1e-5
        )
    assert 0 < counted.sum() < len(every)


def test_rois_in_a_crowd_are_no_background():
    batch = crowded_batch()
    above, inside = np.float32([30, 0, 40, 10]), np.float32([30, 40, 40, 50])
    proposals = Rois(jnp.stack([above, inside])[None], jnp.ones((1, 2), bool))
    for overlap, backgrounds in ((None, [above, inside]), (0.5, [above])):
        heads = RoiHeads(rois_per_image=16, ignore_overlap=overlap)
        rois = heads.sample(proposals, batch, KEYS)
        found = np.asarray(rois.boxes[0])[np.asarray(rois.valid[0])]
        want = np.concatenate([batch.boxes[0, :2], backgrounds])
        np.testing.assert_array_equal(sorted(found.tolist()), sorted(want.tolist()))


def test_rois_that_a_stage_has_moved_into_a_crowd_do_not_count():
    batch = crowded_batch()
    rois = Rois(
        jnp.float32([[[0, 0, 16, 16], [30, 0, 40, 10], [30, 40, 40, 50], [0, 0, 0, 0]]]),
        jnp.array([[True, True, True, False]]),
    )
    logits = np.random.default_rng(0).normal(size=(1, 4, CLASSES + 1)).astype("f4")
    outputs = BoxOutputs(jnp.asarray(logits), jnp.zeros((1, 4, 1, 4)))
    labels = np.array([0, CLASSES, CLASSES])
    cross_entropy = -np.asarray(jax.nn.log_softmax(logits[0]))[np.arange(3), labels]
    for overlap, counted in ((None, slice(3)), (0.5, slice(2))):
        heads = RoiHeads(stages=CASCADE_RCNN, ignore_overlap=overlap)
        metrics = heads.stage_losses(outputs, rois, batch, stage=1)
        np.testing.assert_allclose(
            metrics["loss_class_1"], cross_entropy[counted].mean(), rtol=1e-5
        )
        assert metrics["positive_rois_1"] == 1
