"""Class rows of trained heads, carried over by the classes' names."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence

import numpy as np

from ipg_jax.types import Array

logger = logging.getLogger(__name__)

COCO_CLASSES = (
    *("", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
    *("traffic light", "fire hydrant", "", "stop sign", "parking meter", "bench", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "", "backpack"),
    *("umbrella", "", "", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard"),
    *("sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard"),
    *("tennis racket", "bottle", "", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
    *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut"),
    *("cake", "chair", "couch", "potted plant", "bed", "", "dining table", "", "", "toilet", ""),
    *("tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster"),
    *("sink", "refrigerator", "", "book", "clock", "vase", "scissors", "teddy bear"),
    *("hair drier", "toothbrush"),
)
"""COCO's classes at their category ids, 0 to 90; empty where there is no such category."""

# What Pascal VOC calls COCO's classes; differences of case and spacing do not count.
SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def match_classes(
    arrays: Mapping[str, Array],
    fresh: Mapping[str, Array],
    source: Sequence[str],
    target: Sequence[str],
) -> dict[str, Array]:
    """Returns `arrays` with the rows of their heads' classes in the order of other classes.

    Names match whatever their case and spacing, and Pascal VOC's match COCO's. What was matched and
    what was not is logged.

    Args:
      arrays: of a trained model, by path in the model (`model_arrays`).
      fresh: the same of the model to fill; classes without a match take their rows from it.
      source: names of the trained classes, in their order.
      target: names of the wanted classes, in their order.
    """
    if tuple(source) == tuple(target):
        return dict(arrays)
    rows = {_plain(name): row for row, name in reversed(list(enumerate(source)))}
    pairs = [(new, rows[_plain(name)]) for new, name in enumerate(target) if _plain(name) in rows]
    matched = {new for new, _ in pairs}
    logger.info(
        "%d of %d classes matched by name: %s; start fresh: %s",
        len(pairs),
        len(target),
        ", ".join(target[new] for new in sorted(matched)) or "none",
        ", ".join(name for new, name in enumerate(target) if new not in matched) or "none",
    )
    result = dict(arrays)
    for path in arrays.keys() & fresh.keys():
        if "box_deltas" in path and arrays[path].shape[-1] == fresh[path].shape[-1] == 4:
            continue  # one box for all classes, as in Cascade R-CNN
        old = _by_class(path, np.asarray(arrays[path]), len(source))
        new = _by_class(path, np.array(fresh[path]), len(target))
        if old is None or new is None or old.shape[:-2] != new.shape[:-2]:
            continue  # no rows by class, or none that fit: left to the comparison of shapes
        for to, from_ in pairs:
            new[..., to, :] = old[..., from_, :]
        if old.shape[-2] > len(source):  # the background, last of the two-stage classifier
            new[..., -1, :] = old[..., -1, :]
        result[path] = new.reshape(fresh[path].shape)
    return result


def _plain(name: str) -> str:
    """Returns the form of a class's name that is compared."""
    plain = re.sub(r"[\s_-]", "", name.casefold())
    return SYNONYMS.get(plain, plain)


def _by_class(path: str, array: np.ndarray, classes: int) -> np.ndarray | None:
    """Returns a view of a head's array with the axes `[..., classes, values per class]`.

    None if the array has no rows by class. The two-stage classifier has one class more, the
    background.
    """
    if re.fullmatch(r"head/class_logits/\w+", path):
        rows, width = classes, 1
    elif re.fullmatch(r"box_head\d?/class_logits/\w+", path):
        rows, width = classes + 1, 1
    elif re.fullmatch(r"box_head\d?/box_deltas/\w+", path):
        rows, width = classes, 4
    else:
        return None
    if array.shape[-1] % (rows * width):
        return None
    return array.reshape(*array.shape[:-1], -1, rows, width)
