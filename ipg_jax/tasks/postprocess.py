"""From scored boxes to the detections of an image: what every task ends with."""

from __future__ import annotations

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ipg_jax import ops
from ipg_jax.types import Array, Detections

Nms = Literal["greedy", "soft_linear", "soft_gaussian"]
"""How boxes of one class suppress each other: `ops.batched_nms`, or `ops.soft_nms` of a method."""

NMS_CHOICES: tuple[str, ...] = get_args(Nms)
"""The names of all kinds of suppression."""


# Compiled once for all images of a test-time augmentation; a task inlines it in its own program.
@functools.partial(
    jax.jit, static_argnames=("score_threshold", "nms_iou", "max_detections", "nms", "nms_sigma")
)
def select_detections(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"],
    image_size: Int[Array, " 2"],
    *,
    score_threshold: float,
    nms_iou: float,
    max_detections: int,
    nms: Nms = "greedy",
    nms_sigma: float = 0.5,
) -> Detections:
    """Returns the detections of one image, best first: clipped, thresholded and suppressed.

    Args:
      boxes: candidates in pixels, in any order.
      scores: their scores; minus infinity or NaN for padding.
      labels: their classes.
      image_size: height and width of the image's content, to which boxes are clipped.
      score_threshold: scores at or below it are dropped; also those that soft-NMS lowers so far.
      nms_iou: of `greedy` and `soft_linear`: a box suppresses those of its class that overlap it
        by strictly more.
      max_detections: the number `d` of boxes kept, over all classes.
      nms: how boxes of one class suppress each other.
      nms_sigma: of `soft_gaussian`.

    Returns:
      Detections without a batch axis: boxes `[d, 4]`, scores, labels and valid `[d]`.

    Raises:
      ValueError: `nms` is unknown.
    """
    if nms not in NMS_CHOICES:
        raise ValueError(f"nms is one of {', '.join(NMS_CHOICES)}, not {nms!r}")
    boxes = ops.clip_boxes(boxes, image_size)
    if nms == "greedy":
        index, valid = ops.batched_nms(
            boxes,
            scores,
            labels,
            iou_threshold=nms_iou,
            max_output_size=max_detections,
            valid=scores > score_threshold,
        )
        scores = scores[index]
    else:
        index, scores, valid = ops.soft_nms(
            boxes,
            scores,
            labels,
            max_detections,
            method="linear" if nms == "soft_linear" else "gaussian",
            score_threshold=score_threshold,
            iou_threshold=nms_iou,
            sigma=nms_sigma,
        )
    return Detections(
        boxes=jnp.where(valid[:, None], boxes[index], 0.0),
        scores=jnp.where(valid, scores, 0.0),
        labels=jnp.where(valid, labels[index], 0),
        valid=valid,
    )
