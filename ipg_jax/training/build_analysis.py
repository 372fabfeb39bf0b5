"""From a config to what the analysis of its data needs to know of the detector."""

from __future__ import annotations

import logging

import jax
from ml_collections import ConfigDict

from ipg_jax.analysis.proposal import Anchors
from ipg_jax.analysis.report import DetectorSettings, analyse
from ipg_jax.analysis.text import hints
from ipg_jax.data import Source
from ipg_jax.images import make_geometry, padding_multiple
from ipg_jax.ops import Matches
from ipg_jax.tasks import (
    RETINANET_IOU,
    RPN_IOU,
    DetectionTask,
    IouMatcher,
    Matcher,
    RetinaNetTask,
    TwoStageTask,
)
from ipg_jax.tasks.matchers import anchors_by_kind
from ipg_jax.training.build import build_task, fpn_levels
from ipg_jax.training.build_checks import checked
from ipg_jax.types import Array, Size

logger = logging.getLogger(__name__)

SAMPLED = 4000
"""Objects that the anchors are looked at with when a training starts."""


def build_detector_settings(config: ConfigDict, *, tile: Size | None = None) -> DetectorSettings:
    """Returns what of the config's detector the objects of a data set must fit.

    Args:
      config: the run's.
      tile: height and width of the images in pixels, if they are tiles.

    Raises:
      ValueError: a field is out of range; the message names it.
    """
    config = checked(config)
    task, model = build_task(config), config.model
    levels = fpn_levels(model)
    geometry = make_geometry(
        tuple(config.image_size),
        task.pyramid_levels,
        padding_multiple(task.pyramid_levels, config.mesh.space),
        tile=tile,
    )
    strides = {int(name[1:]): stride for name, stride in task.model.backbone.strides.items()}
    deepest = max(strides)
    for level in range(deepest + 1, max(deepest + 2, levels[1]) + 1):
        strides[level] = 2 * strides[level - 1]  # as a neck's extra levels
    matcher, limits = _matcher_and_limits(task)
    # Another matcher than by IoU is judged by the IoUs that its detector has by default.
    by_iou = matcher if isinstance(matcher, IouMatcher) else _DEFAULTS[type(task)]
    kinds = model.anchor_octaves * len(model.anchor_ratios)

    def match(anchors: tuple[Array, ...], boxes: Array, valid: Array) -> Matches:
        return matcher.match(anchors_by_kind(anchors, kinds), boxes, valid)

    if config.data.max_boxes is not None:
        limits["config.data.max_boxes"] = config.data.max_boxes
    return DetectorSettings(
        geometry=geometry,
        anchors=Anchors(
            fpn_levels=levels,
            scale=float(model.anchor_scale),
            ratios=tuple(map(float, model.anchor_ratios)),
            octaves=model.anchor_octaves,
            strides=strides,
            deepest=deepest,
        ),
        foreground_iou=by_iou.foreground_iou,
        background_iou=by_iou.background_iou,
        match=match,
        by_iou=isinstance(matcher, IouMatcher),
        limits=limits,
    )


_DEFAULTS: dict[type[DetectionTask], IouMatcher] = {
    RetinaNetTask: RETINANET_IOU,
    TwoStageTask: RPN_IOU,
}


def _matcher_and_limits(task: DetectionTask) -> tuple[Matcher, dict[str, int]]:
    """The matcher of the anchors, and how many boxes go on, by what limits them."""
    limits = {"config.eval.max_detections": task.max_detections}
    if isinstance(task, RetinaNetTask):
        limits["config.model.retinanet_head.candidates_per_level"] = task.candidates_per_level
        return task.matcher, limits
    assert isinstance(task, TwoStageTask)
    proposals = task.proposals
    limits["config.model.rpn.candidates"] = min(proposals.candidates_per_level)
    limits["config.model.rpn.proposals"] = min(proposals.per_image)
    return proposals.matcher, limits


def log_hints(config: ConfigDict, source: Source) -> None:
    """Logs what the objects of the training data are like and what will cost accuracy.

    Args:
      config: the run's.
      source: its training data.
    """
    if jax.process_index():  # the others have the same data
        return
    report = analyse(
        source, build_detector_settings(config, tile=source.tile), sample=SAMPLED, matched_images=0
    )
    lines, warnings = hints(report)
    for line in lines:
        logger.info("%s", line)
    for warning in warnings:
        logger.warning("%s", warning)
