"""From a config to the matcher of its anchors."""

from __future__ import annotations

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from ipg_jax.tasks import MATCHERS, RETINANET_IOU, RPN_IOU, Matcher
from ipg_jax.tasks.matchers import receptive_field


def build_matcher(model: ConfigDict, *, levels: tuple[int, int]) -> Matcher:
    """Returns the matcher of the anchors of `config.model`, RetinaNet's or those of the RPN.

    Args:
      model: `config.model`.
      levels: the first and the last level that have anchors.

    Raises:
      ValueError: the IoUs are in the wrong order, or they are set for a matcher without such.
    """
    usual = RETINANET_IOU if model.detector == "retinanet" else RPN_IOU
    known = {field.name for field in dataclasses.fields(MATCHERS[model.matcher])}
    ious: dict[str, float] = {}
    for name in ("foreground_iou", "background_iou"):
        if model[name] is not None and name not in known:
            raise ValueError(
                f"config.model.{name}={model[name]} is of config.model.matcher=iou, and that is "
                f"{model.matcher}: leave it out, or take that matcher"
            )
        ious[name] = getattr(usual, name) if model[name] is None else model[name]
    if ious["background_iou"] > ious["foreground_iou"]:
        raise ValueError(
            f"config.model.background_iou={ious['background_iou']} is above "
            f"config.model.foreground_iou={ious['foreground_iou']}: anchors between the two would "
            f"be positive and negative; set both, in ascending order"
        )
    first, last = levels
    options: dict[str, Any] = ious | {
        "ignore_overlap": model.ignore_overlap,
        "nwd_constant": model.nwd_constant,
        "receptive_fields": tuple(receptive_field(level) for level in range(first, last + 1)),
    }
    return MATCHERS[model.matcher](**{k: v for k, v in options.items() if k in known})
