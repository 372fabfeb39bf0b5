"""How often training images come: more often where they hold rare classes or small objects."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from ipg_jax.data.sources.base import Source


def repeat_factors(
    source: Source,
    *,
    class_share: float | None = None,
    small_repeat: float = 1.0,
    small_side: float = 32.0,
) -> Float64[np.ndarray, " n"]:
    """Returns how often each image comes in an epoch, at least once.

    A class that the share `f` of the images has is to come `sqrt(class_share / f)` times as often
    if that is more than once (Gupta et al., "LVIS", 2019, appendix B.3), an image with a small
    object `small_repeat` times (Kisantal et al., "Augmentation for small object detection", 2019,
    section 4.1). An image that several of these ask for takes the largest. Objects that training
    leaves out (`ignore`) count for nothing. On tiles an object is as large as it is in its image,
    not as the part in the tile.

    Args:
      source: the training data.
      class_share: share of the images above which no class is repeated, LVIS's threshold `t`; None
        repeats none.
      small_repeat: how often images with a small object come.
      small_side: in pixels of the original image; an object is small whose box has an area below
        that of this square.

    Raises:
      ValueError: `class_share` is not in (0, 1], `small_repeat` is below 1 or `small_side` not
        above 0.
    """
    if class_share is not None and not 0 < class_share <= 1:
        raise ValueError(f"class_share={class_share} is not a share above 0 and up to 1")
    if not 1 <= small_repeat < np.inf:
        raise ValueError(f"small_repeat={small_repeat} is not a number from 1 on")
    if not small_side > 0:
        raise ValueError(f"small_side={small_side} is not above 0")
    records, num_classes = source.records, len(source.class_names)
    counted = ~records.ignore
    images = np.repeat(np.arange(len(records)), np.diff(records.offsets))[counted]
    factors = np.ones(len(records))
    if class_share is not None:
        pairs = np.unique(images * num_classes + records.labels[counted])
        image, label = np.divmod(pairs, num_classes)
        share = np.bincount(label, minlength=num_classes) / len(records)
        of_class = np.sqrt(class_share / np.maximum(share, 1 / len(records)))
        np.maximum.at(factors, image, of_class[label])
    boxes = source.whole_boxes[counted]
    small = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) < small_side**2
    np.maximum.at(factors, images[small], small_repeat)
    return factors
