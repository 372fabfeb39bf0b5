"""The operators beside stored results of torchvision's (`tests/golden`), on the default device."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the package lies beside benchmarks
from ipg_jax import ops
from ipg_jax.ops import MatchState

GOLDEN = pathlib.Path(__file__).parents[1] / "tests" / "golden"
TOLERANCE = 1e-5
"""Of a number beside 1 or beside itself, whichever is larger; whole numbers are equal."""


def differences() -> dict[str, float]:
    """Returns by operator the largest difference, in units of what it may be."""
    found = {}
    for make in (_boxes, _box_coder, _anchors, _matching, _nms, _losses, _roi_align):
        arrays = dict(np.load(GOLDEN / f"{make.__name__.strip('_')}.npz"))
        for name, have, want in make(arrays):
            distance = _distance(np.asarray(have), np.asarray(want))
            found[name] = max(found.get(name, 0.0), distance)
    return found


def _distance(have: np.ndarray, want: np.ndarray) -> float:
    if have.shape != want.shape:
        return float("inf")
    if not np.issubdtype(want.dtype, np.floating):
        return float("inf") if (have != want).any() else 0.0
    scaled = np.abs(have - want) / np.maximum(1.0, np.abs(want)) / TOLERANCE
    return float(np.where(np.isnan(scaled), np.inf, scaled).max(initial=0.0))


Rows = Iterator[tuple[str, Any, Any]]
"""Of each result: the operator, what it gives, what torchvision's gave."""


def _boxes(g: dict[str, np.ndarray]) -> Rows:
    yield "pairwise_iou", jax.jit(ops.pairwise_iou)(g["a"], g["b"]), g["iou"]
    yield "box_area", jax.jit(ops.box_area)(g["a"]), g["area"]
    yield "clip_boxes", jax.jit(ops.clip_boxes)(g["a"], g["image_size"]), g["clipped"]


def _box_coder(g: dict[str, np.ndarray]) -> Rows:
    for i, row in enumerate(g["weights"].tolist()):
        weights = tuple(row)
        encode = jax.jit(lambda boxes, anchors, w=weights: ops.encode_boxes(boxes, anchors, w))
        decode = jax.jit(lambda deltas, anchors, w=weights: ops.decode_boxes(deltas, anchors, w))
        yield "encode_boxes", encode(g["boxes"], g["anchors"]), g["encoded"][i]
        yield "decode_boxes", decode(g["deltas"], g["anchors"]), g["decoded"][i]


def _anchors(g: dict[str, np.ndarray]) -> Rows:
    shapes, strides = (tuple(map(tuple, g[key].tolist())) for key in ("feature_shapes", "strides"))
    levels = ops.pyramid_anchors(shapes, strides, ops.RETINANET_SIZES, (0.5, 1.0, 2.0))
    yield "pyramid_anchors", np.concatenate(levels), g["anchors"]


def _matching(g: dict[str, np.ndarray]) -> Rows:
    valid = np.ones(len(g["boxes"]), bool)
    rows = zip(g["thresholds"].tolist(), g["low_quality"], g["matches"], strict=True)
    for (high, low), low_quality, want in rows:

        def match(anchors: Any, boxes: Any, settings: Any = (high, low, bool(low_quality))) -> Any:
            high, low, low_quality = settings
            return ops.match_anchors(
                anchors,
                boxes,
                valid,
                positive_threshold=high,
                negative_threshold=low,
                low_quality=low_quality,
            )

        index, state = jax.jit(match)(g["anchors"], g["boxes"])
        wanted = np.select(
            [want == -1, want == -2],
            [MatchState.NEGATIVE, MatchState.IGNORE],
            MatchState.POSITIVE,
        )
        yield "match_anchors", state, wanted
        yield "match_anchors", index, g["index"].astype(np.int32)


def _nms(g: dict[str, np.ndarray]) -> Rows:
    labels = g["labels"].astype(np.int32)
    count = len(labels)
    for i, threshold in enumerate(g["thresholds"].tolist()):
        for name, wanted, kept in (
            ("nms", f"keep_{i}", ops.nms(g["boxes"], g["scores"], threshold, count)),
            (
                "batched_nms",
                f"batched_keep_{i}",
                ops.batched_nms(g["boxes"], g["scores"], labels, threshold, count),
            ),
        ):
            index, valid = map(np.asarray, kept)
            yield name, index[valid], g[wanted].astype(np.int32)


def _losses(g: dict[str, np.ndarray]) -> Rows:
    logits, targets = g["logits"], g["targets"]
    for (alpha, gamma), want in zip(g["focal_settings"].tolist(), g["focal"], strict=True):
        yield "sigmoid_focal_loss", ops.sigmoid_focal_loss(logits, targets, alpha, gamma), want
    gradient = jax.grad(lambda x: ops.sigmoid_focal_loss(x, targets).sum())(logits)
    yield "sigmoid_focal_loss gradient", gradient, g["focal_gradient"]
    predictions, references = g["predictions"], g["references"]
    yield "l1_loss", ops.l1_loss(predictions, references), g["l1"]
    for beta, want in zip(g["betas"].tolist(), g["smooth_l1"], strict=True):
        yield "smooth_l1_loss", ops.smooth_l1_loss(predictions, references, beta), want
    yield "giou_loss", ops.giou_loss(g["boxes"], g["other"]), g["giou"]
    gradient = jax.grad(lambda b: ops.giou_loss(b, g["other"][:20]).sum())(g["boxes"][:20])
    yield "giou_loss gradient", gradient, g["giou_gradient"]


def _roi_align(g: dict[str, np.ndarray]) -> Rows:
    for aligned in (False, True):
        for ratio in (1, 2, 3):

            def pool(features: Any, settings: Any = (ratio, aligned)) -> Any:
                return ops.roi_align(features, g["boxes"], (3, 2), 1 / 8, *settings)

            pooled, pull = jax.vjp(jax.jit(pool), jax.numpy.asarray(g["features"]))
            (gradient,) = pull(jax.numpy.asarray(g["cotangent"]))
            yield "roi_align", pooled, g[f"pooled_{aligned}_{ratio}"]
            yield "roi_align gradient", gradient, g[f"gradient_{aligned}_{ratio}"]
    levels, strides = [g[f"level_{i}"] for i in range(4)], g["strides"].tolist()
    pooled = ops.multilevel_roi_align(
        levels, g["multilevel_boxes"], 3, strides, 2, False, canonical_size=56.0
    )
    yield "multilevel_roi_align", pooled, g["multilevel"]
