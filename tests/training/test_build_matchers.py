"""Fields of the config that say what anchors are trained for."""

import pytest

from configs.common import default_config, two_stage
from ipg_jax import build_task
from ipg_jax.tasks import IouMatcher
from ipg_jax.tasks.matchers import AtssMatcher, NwdMatcher, RflaMatcher


def test_by_default_each_detector_has_the_ious_it_was_published_with():
    config = default_config()
    matcher = IouMatcher(foreground_iou=0.5, background_iou=0.4, ignore_overlap=0.5)
    assert build_task(config).matcher == matcher
    two_stage(config, "faster_rcnn")
    task = build_task(config)
    matcher = IouMatcher(foreground_iou=0.7, background_iou=0.3, ignore_overlap=0.5)
    assert task.proposals.matcher == matcher
    assert task.roi_heads.ignore_overlap == 0.5


def test_one_iou_may_be_set_by_itself():
    config = default_config()
    config.model.foreground_iou = 0.45
    config.model.ignore_overlap = None
    matcher = IouMatcher(foreground_iou=0.45, background_iou=0.4, ignore_overlap=None)
    assert build_task(config).matcher == matcher


@pytest.mark.parametrize("detector", ["retinanet", "cascade_rcnn"])
def test_matchers_by_name(detector):
    config = default_config()
    if detector != "retinanet":
        two_stage(config, detector)
    config.model.nwd_constant = 20
    # P3 to P7, and P2 to P6.
    fields = (35.0, 91.0, 267.0, 427.0, 555.0, 811.0)
    fields = fields[1:] if detector == "retinanet" else fields[:-1]
    for name, matcher in (
        ("atss", AtssMatcher(ignore_overlap=0.5)),
        ("nwd", NwdMatcher(nwd_constant=20.0, ignore_overlap=0.5)),
        ("rfla", RflaMatcher(receptive_fields=fields, ignore_overlap=0.5)),
    ):
        config.model.matcher = name
        task = build_task(config)
        assert (task.matcher if detector == "retinanet" else task.proposals.matcher) == matcher


def test_losses_and_candidates_of_retinanet():
    config = default_config()
    config.model.nwd_constant = 20.0
    config.model.retinanet_head.update(
        box_loss="nwd", class_loss="varifocal", candidates_per_level=3000
    )
    task = build_task(config)
    assert (task.box_loss, task.class_loss, task.nwd_constant) == ("nwd", "varifocal", 20.0)
    assert task.candidates_per_level == 3000
