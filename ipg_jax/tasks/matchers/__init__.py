"""Matchers: which anchors are trained to find which object. `MATCHERS` has them by name."""

from ipg_jax.tasks.matchers.atss import AtssMatcher
from ipg_jax.tasks.matchers.base import Levels, Matcher, anchors_by_kind, flat
from ipg_jax.tasks.matchers.iou import RETINANET_IOU, RPN_IOU, IouMatcher
from ipg_jax.tasks.matchers.nwd import NwdMatcher
from ipg_jax.tasks.matchers.rfla import RflaMatcher, receptive_field

MATCHERS: dict[str, type[Matcher]] = {
    "iou": IouMatcher,
    "atss": AtssMatcher,
    "nwd": NwdMatcher,
    "rfla": RflaMatcher,
}
"""By the name that `config.model.matcher` takes."""

__all__ = [
    "MATCHERS",
    "RETINANET_IOU",
    "RPN_IOU",
    "AtssMatcher",
    "IouMatcher",
    "Levels",
    "Matcher",
    "NwdMatcher",
    "RflaMatcher",
    "anchors_by_kind",
    "flat",
    "receptive_field",
]
