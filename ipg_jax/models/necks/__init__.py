"""Necks, by name; CONTRIBUTING says how to add one."""

from collections.abc import Callable

from ipg_jax.models.necks.base import Neck
from ipg_jax.models.necks.fpn import FPN

NECKS: dict[str, Callable[..., Neck]] = {"fpn": FPN}
"""Necks by the names that `config.model.neck` takes."""

__all__ = ["FPN", "NECKS", "Neck"]
