"""Losses of the classes and boxes of dense heads, by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.kernels import dense_focal_loss
from ipg_jax.types import Array

BoxLoss = Literal["l1", "smooth_l1", "giou", "diou", "ciou", "nwd"]
"""`l1` and `smooth_l1`, with beta 1/9, of encoded boxes; the others of decoded ones."""

ClassLoss = Literal["focal", "quality_focal", "varifocal"]
"""`focal` has classes as targets; the others, for the right class, the IoU of the decoded box."""

BOX_LOSSES: tuple[str, ...] = get_args(BoxLoss)
CLASS_LOSSES: tuple[str, ...] = get_args(ClassLoss)
Average: TypeAlias = Literal["image", "batch"]
AVERAGES: tuple[str, ...] = get_args(Average)


def box_errors(
    kind: BoxLoss,
    deltas: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    boxes: Float[Array, "*n 4"],
    *,
    nwd_constant: float,
) -> Float[Array, "*n"]:
    """Returns the loss of each anchor's deltas, were it to become the box in its place.

    Args:
      kind: which loss.
      deltas: outputs of the head.
      anchors: the anchors.
      boxes: the objects.
      nwd_constant: of `nwd`, see `ops.nwd_loss`.
    """
    deltas = deltas.astype(jnp.float32)
    if kind in ("l1", "smooth_l1"):
        targets = ops.encode_boxes(boxes, anchors)
        if kind == "l1":
            return ops.l1_loss(deltas, targets).sum(-1)
        return ops.smooth_l1_loss(deltas, targets, beta=1 / 9).sum(-1)
    of_boxes: dict[str, Callable[[Array, Array], Array]] = {
        "giou": ops.giou_loss,
        "diou": ops.diou_loss,
        "ciou": ops.ciou_loss,
        "nwd": functools.partial(ops.nwd_loss, constant=nwd_constant),
    }
    return of_boxes[kind](ops.decode_boxes(deltas, anchors), boxes)


def class_error(
    kind: ClassLoss,
    logits: Float[Array, "h w a k"],
    labels: Float[Array, "h w a"],
    counted: Bool[Array, "h w a"],
    qualities: Callable[[], Float[Array, "h w a"]],
    *,
    alpha: float,
    gamma: float,
) -> Float[Array, ""]:
    """Returns the loss of one level of one image, summed over anchors and classes.

    Args:
      kind: which loss; other than `focal`, with the parameters that were published.
      logits: before the sigmoids, of each class of each anchor of each position.
      labels: each anchor's class; `k` for the background.
      counted: False for anchors that are left out.
      qualities: gives the IoU of each anchor's decoded box with its object; `focal` does not ask.
      alpha: of `focal`, see `ops.sigmoid_focal_loss`.
      gamma: of `focal`.
    """
    if kind == "focal":
        return dense_focal_loss(logits, labels, counted, alpha=alpha, gamma=gamma)
    right = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    targets = jnp.where(right, qualities()[..., None], 0.0)
    of_qualities: dict[str, Callable[[Array, Array], Array]] = {
        "quality_focal": ops.quality_focal_loss,
        "varifocal": ops.varifocal_loss,
    }
    return jnp.where(counted[..., None], of_qualities[kind](logits, targets), 0.0).sum()
