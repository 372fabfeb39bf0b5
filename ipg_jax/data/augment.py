"""Random changes of training images, by name; CONTRIBUTING says how to add one.

An augmentation is a function of an example and a NumPy generator, which is seeded by the run's
seed, the epoch and the image: the same batches come on any number of hosts, and after a resume. It
keeps the size of the image, by which batches are put together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import UInt8

from ipg_jax.data.sources.base import Objects


class Example(NamedTuple):
    """One image and its objects.

    Attributes:
      image: uint8 `[h, w, 3]`.
      objects: boxes are `xyxy` in pixels of the image.
    """

    image: UInt8[np.ndarray, "h w 3"]
    objects: Objects


Augmentation: TypeAlias = Callable[[Example, np.random.Generator], Example]


def mirror(example: Example) -> Example:
    """Returns the example with left and right exchanged; x becomes `w - x`."""
    x0, y0, x1, y1 = example.objects.boxes.T
    width = np.float32(example.image.shape[1])
    boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
    return Example(example.image[:, ::-1], dataclasses.replace(example.objects, boxes=boxes))


def flip_vertical(example: Example, rng: np.random.Generator) -> Example:
    """Exchanges top and bottom of every second image, for pictures taken from above."""
    if rng.random() < 0.5:
        return example
    x0, y0, x1, y1 = example.objects.boxes.T
    height = np.float32(example.image.shape[0])
    boxes = np.stack([x0, height - y1, x1, height - y0], axis=1)
    return Example(example.image[::-1], dataclasses.replace(example.objects, boxes=boxes))


AUGMENTATIONS: dict[str, Augmentation] = {"flip_vertical": flip_vertical}
"""What `config.data.augmentations` names, besides the horizontal flip (`config.data.flip`)."""


def check_augmentations(names: Sequence[str]) -> None:
    """Raises ValueError for a name that is not in `AUGMENTATIONS`."""
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise ValueError(
            f"config.data.augmentations has {', '.join(map(repr, unknown))}: known are "
            f"{', '.join(sorted(AUGMENTATIONS))}"
        )


def augment(example: Example, names: Sequence[str], rng: np.random.Generator) -> Example:
    """Returns the example after the augmentations of these names, in this order.

    Raises:
      ValueError: one changes the size of the image.
    """
    for name in names:
        shape = example.image.shape
        example = AUGMENTATIONS[name](example, rng)
        if example.image.shape != shape:
            raise ValueError(
                f"the augmentation {name!r} turned an image of {shape} into "
                f"{example.image.shape}: it must keep the size"
            )
    return example
