"""Random changes of training images, by name; CONTRIBUTING says how to add one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipg_jax.data.augmentations.base import Augmentation, Example, Images, at_final_size, option
from ipg_jax.data.augmentations.geometry import (
    FlipVertical,
    RandomCrop,
    Rotate90,
    ScaleJitter,
    mirror,
)
from ipg_jax.data.augmentations.mixing import CopyPaste, Mosaic
from ipg_jax.data.augmentations.pixels import (
    ColorJitter,
    GaussianBlur,
    GaussianNoise,
    JpegCompression,
)
from ipg_jax.text import shown

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "ColorJitter",
    "CopyPaste",
    "Example",
    "FlipVertical",
    "GaussianBlur",
    "GaussianNoise",
    "Images",
    "JpegCompression",
    "Mosaic",
    "RandomCrop",
    "Rotate90",
    "ScaleJitter",
    "at_final_size",
    "make_augmentations",
    "mirror",
    "option",
]

AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "flip_vertical": FlipVertical,
    "rotate90": Rotate90,
    "scale_jitter": ScaleJitter,
    "random_crop": RandomCrop,
    "mosaic": Mosaic,
    "copy_paste": CopyPaste,
    "color_jitter": ColorJitter,
    "gaussian_blur": GaussianBlur,
    "gaussian_noise": GaussianNoise,
    "jpeg_compression": JpegCompression,
}
"""What `config.data.augmentations` names, besides the horizontal flip (`config.data.flip`)."""


def make_augmentations(entries: Sequence[Any]) -> tuple[Augmentation, ...]:
    """Returns the augmentations that `config.data.augmentations` lists.

    Args:
      entries: each a name of `AUGMENTATIONS`, or a pair of a name and a mapping of its options.

    Raises:
      ValueError: there is no such augmentation or option, or an option has a value that it may not
        have; the message says which, and what is allowed.
    """
    return tuple(map(_make, entries))


def _make(entry: Any) -> Augmentation:
    name, options = entry if isinstance(entry, tuple | list) and len(entry) == 2 else (entry, {})
    if not isinstance(name, str) or not isinstance(options, Mapping):
        raise ValueError(
            f"config.data.augmentations has {shown(repr(entry))}: an entry is a name, or a pair of "
            "a name and its options such as ('random_crop', {'size': (512, 512)})"
        )
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"config.data.augmentations has {shown(repr(name))}: known are "
            f"{', '.join(sorted(AUGMENTATIONS))}"
        )
    options = {key: _tuples(value) for key, value in options.items()}
    try:
        AUGMENTATIONS[name].check(options)
    except ValueError as error:
        raise ValueError(f"config.data.augmentations: {name}: {error}") from error
    return AUGMENTATIONS[name](**options)


def _tuples(value: Any) -> Any:
    """A value from JSON, whose tuples are lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
