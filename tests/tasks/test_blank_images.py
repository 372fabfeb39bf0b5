"""Images of weight 0 count for nothing, not in the statistics of batch norms either."""

import functools

import jax
import numpy as np
import pytest
from blank_images import with_blank
from noise_batch import CLASSES, ShallowBackbone, make_batch

from ipg_jax.models import FPN, BoxHead, FasterRCNN, RetinaNet, RetinaNetHead, RPNHead
from ipg_jax.tasks import (
    CASCADE_RCNN,
    DetectionTask,
    Proposals,
    RetinaNetTask,
    RoiHeads,
    TwoStageTask,
)


def retinanet() -> RetinaNetTask:
    return RetinaNetTask(
        model=RetinaNet(
            backbone=ShallowBackbone(norm=True),
            fpn=FPN(channels=8, extra_levels=0, norm="batch_norm"),
            head=RetinaNetHead(num_classes=CLASSES, num_anchors=1, channels=8, num_convs=1),
        ),
        anchor_sizes=((16.0,), (32.0,), (64.0,)),
        anchor_ratios=(1.0,),
    )


def cascade_rcnn() -> TwoStageTask:
    """With a batch norm in its box heads, over the rois of all images."""
    head = BoxHead(
        num_classes=CLASSES,
        num_convs=1,
        conv_channels=8,
        num_fcs=0,
        norm="batch_norm",
        class_agnostic=True,
    )
    return TwoStageTask(
        model=FasterRCNN(
            backbone=ShallowBackbone(norm=True),
            fpn=FPN(channels=8, extra_levels=0),
            rpn=RPNHead(num_anchors=1, channels=8),
            box_heads=(head,) * 3,
        ),
        anchor_sizes=((16.0,), (32.0,), (64.0,)),
        anchor_ratios=(1.0,),
        proposals=Proposals(candidates_per_level=(60, 40), per_image=(50, 30)),
        roi_heads=RoiHeads(stages=CASCADE_RCNN, rois_per_image=16),
    )


@functools.cache
def prepared(make):
    """Returns a task's jitted loss and its variables."""
    task: DetectionTask = make()
    loss = jax.jit(functools.partial(task.loss_and_updates, rng=jax.random.key(1)))
    return loss, task.init(jax.random.key(0))


@pytest.mark.parametrize("make", [retinanet, cascade_rcnn])
def test_a_batch_with_blank_images_is_one_without_them(make):
    loss, variables = prepared(make)
    # The blank images come last: each image's random key is that of its row.
    whole = make_batch(images=4)
    padded = with_blank(whole, [2, 3])
    want, (want_metrics, want_stats) = loss(variables, jax.tree.map(lambda x: x[:2], whole))
    got, (got_metrics, got_stats) = loss(variables, padded)
    assert float(got) == pytest.approx(float(want), rel=1e-5)
    for name, value in want_metrics.items():
        assert float(got_metrics[name]) == pytest.approx(float(value), rel=1e-5), name
    assert jax.tree.leaves(want_stats)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got_stats, want_stats
    )
    assert float(got) != pytest.approx(float(loss(variables, whole)[0]), rel=1e-3)


@pytest.mark.parametrize("make", [retinanet, cascade_rcnn])
def test_a_batch_of_blank_images_alone_teaches_nothing(make):
    loss, variables = prepared(make)
    value, (metrics, stats) = loss(variables, with_blank(make_batch(images=4), range(4)))
    assert value == 0
    assert all(x == 0 for x in metrics.values())
    jax.tree.map(np.testing.assert_array_equal, stats, variables["batch_stats"])
