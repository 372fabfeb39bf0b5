"""Detection operators: pure functions on one image, with static shapes.

Callers map them over a batch with `jax.vmap`. Boxes are `xyxy` in pixels and float32; whatever is
padded comes with a validity mask. What takes many steps is compiled where it is called by itself,
and a part of the caller's program (`inline`) else.
"""

from ipg_jax.ops.anchors import (
    ASPECT_RATIOS,
    RETINANET_SIZES,
    base_anchors,
    grid_anchors,
    level_anchor_sizes,
    pyramid_anchors,
)
from ipg_jax.ops.box_coder import MAX_LOG_SCALE, decode_boxes, encode_boxes
from ipg_jax.ops.boxes import (
    box_area,
    box_sizes,
    center_size,
    clip_boxes,
    paired_intersection,
    paired_iou,
    pairwise_intersection,
    pairwise_iou,
)
from ipg_jax.ops.gaussians import gaussian_divergence, normalized_wasserstein
from ipg_jax.ops.ignored import ignore_covered
from ipg_jax.ops.image_pyramid import image_pyramid, normalize_pyramid
from ipg_jax.ops.losses import (
    ciou_loss,
    diou_loss,
    giou_loss,
    l1_loss,
    nwd_loss,
    quality_focal_loss,
    sigmoid_focal_loss,
    smooth_l1_loss,
    varifocal_loss,
)
from ipg_jax.ops.matching import ROUNDING, Matches, MatchState, match_anchors, match_and_take
from ipg_jax.ops.nearest import Nearest, nearest_anchors, settle_claims
from ipg_jax.ops.nms import batched_nms, nms
from ipg_jax.ops.roi_align import multilevel_roi_align, roi_align
from ipg_jax.ops.sampling import sample_matches
from ipg_jax.ops.soft_nms import soft_nms

__all__ = [
    "ASPECT_RATIOS",
    "MAX_LOG_SCALE",
    "RETINANET_SIZES",
    "ROUNDING",
    "MatchState",
    "Matches",
    "Nearest",
    "base_anchors",
    "batched_nms",
    "box_area",
    "box_sizes",
    "center_size",
    "ciou_loss",
    "clip_boxes",
    "decode_boxes",
    "diou_loss",
    "encode_boxes",
    "gaussian_divergence",
    "giou_loss",
    "grid_anchors",
    "ignore_covered",
    "image_pyramid",
    "l1_loss",
    "level_anchor_sizes",
    "match_anchors",
    "match_and_take",
    "multilevel_roi_align",
    "nearest_anchors",
    "nms",
    "normalize_pyramid",
    "normalized_wasserstein",
    "nwd_loss",
    "paired_intersection",
    "paired_iou",
    "pairwise_intersection",
    "pairwise_iou",
    "pyramid_anchors",
    "quality_focal_loss",
    "roi_align",
    "sample_matches",
    "settle_claims",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_nms",
    "varifocal_loss",
]
