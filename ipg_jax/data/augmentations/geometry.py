"""Augmentations that move pixels and boxes, without changing the value of a pixel."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Integer

from ipg_jax.data.augmentations.base import SHARE, Augmentation, Example, Images, cut, option
from ipg_jax.data.crop import MIN_VISIBLE, Window
from ipg_jax.fields import FLAG, ascending_pair, real, several, whole
from ipg_jax.types import Size

LONGEST = 2**16
"""The most pixels of a side."""

FACTORS = ascending_pair(real(0.01, 100.0), "(least, largest) of factors from 0.01 to 100")
"""What a range of scales may be."""


def mirror(example: Example) -> Example:
    """Returns the example with left and right exchanged; x becomes `w - x`."""
    x0, y0, x1, y1 = example.objects.boxes.T
    width = np.float32(example.image.shape[1])
    boxes = np.stack([width - x1, y0, width - x0, y1], axis=1)
    objects = dataclasses.replace(example.objects, boxes=boxes)
    return example._replace(image=example.image[:, ::-1], objects=objects)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlipVertical(Augmentation):
    """Exchanges top and bottom, for pictures taken from above; y becomes `h - y`.

    Attributes:
      probability: how often.
    """

    probability: float = option(SHARE, 0.5)

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        x0, y0, x1, y1 = example.objects.boxes.T
        height = np.float32(example.image.shape[0])
        boxes = np.stack([x0, height - y1, x1, height - y0], axis=1)
        objects = dataclasses.replace(example.objects, boxes=boxes)
        return example._replace(image=example.image[::-1], objects=objects)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotate90(Augmentation):
    """Turns by 0, 90, 180 or 270 degrees, each as often, for pictures taken from above.

    Attributes:
      probability: how often.
    """

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        turns = int(rng.integers(4))
        boxes, size = example.objects.boxes, example.size
        width, height = example.image.shape[1], example.image.shape[0]
        for _ in range(turns):  # anticlockwise: what was the right side is the top
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([y0, np.float32(width) - x1, y1, np.float32(width) - x0], axis=1)
            size, width, height = (size[1], size[0]), height, width
        objects = dataclasses.replace(example.objects, boxes=boxes)
        return Example(np.rot90(example.image, turns), objects, size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleJitter(Augmentation):
    """Makes the image smaller or larger; its sides keep their ratio.

    With the default, the large-scale jitter of Ghiasi et al. (2021), "Simple copy-paste is a strong
    data augmentation method for instance segmentation", of which `random_crop` behind it makes one
    shape.

    Attributes:
      probability: how often.
      factors: least and largest factor, drawn uniformly.
    """

    factors: tuple[float, float] = option(FACTORS, (0.1, 2.0))

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        return example._replace(size=scaled(example.size, rng.uniform(*self.factors)))


def scaled(size: Size, factor: float) -> Size:
    """Returns height and width times a factor, in whole pixels."""
    height, width = (max(round(side * factor), 1) for side in size)
    return height, width


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop(Augmentation):
    """Cuts out a window, as large as `size` or as the image, that keeps small objects.

    Of several windows it takes the one whose border cuts the fewest objects. What is cut to less
    than `min_visible` of its box becomes a region to ignore. All training batches have the shape of
    `size`; `config.image_size` goes on to say how large images are of which it is a window.

    Attributes:
      probability: how often the window is placed like this; else it is placed by the default.
      size: height and width of the window, in pixels of the network input; the same for landscape
        and portrait images.
      min_visible: least share of a box's area that must be inside.
      around_object: how often a window is placed around an object, drawn from those of the image;
        the others lie anywhere.
      by_class: whether a class of the image is drawn first, and then an object of it, so that
        windows show the rare among many.
      tries: of how many windows the best is taken. The more, the fewer windows show dense objects.
    """

    size: tuple[int, int] = option(
        several(
            whole(1, LONGEST),
            f"a pair (height, width) of whole numbers of pixels from 1 to {LONGEST}, such as "
            "(512, 512)",
            lambda size: len(size) == 2,
        )
    )
    min_visible: float = option(SHARE, MIN_VISIBLE)
    around_object: float = option(SHARE, 1.0)
    by_class: bool = option(FLAG, False)
    tries: int = option(whole(1, 1000), 10)

    @property
    def limit(self) -> Size:
        """See `Augmentation`."""
        return self.size

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        if example.size[0] <= self.size[0] and example.size[1] <= self.size[1]:
            return example
        sides = [
            min(max(round(side * most / seen), 1), side)
            for side, seen, most in zip(
                example.image.shape[:2], example.size, self.size, strict=True
            )
        ]
        counted = ~example.objects.ignore
        boxes, labels = example.objects.boxes[counted], example.objects.labels[counted]
        windows = np.array(
            [self._place(example, boxes, labels, sides, rng) for _ in range(self.tries)]
        )
        x0, y0, x1, y1 = windows[np.argmin(_objects_cut(windows, boxes))].tolist()
        height, width = (min(pair) for pair in zip(example.size, self.size, strict=True))
        return cut(example, (x0, y0, x1, y1), (height, width), min_visible=self.min_visible)

    def _place(
        self,
        example: Example,
        boxes: Float[np.ndarray, "n 4"],
        labels: Integer[np.ndarray, " n"],
        sides: list[int],
        rng: np.random.Generator,
    ) -> Window:
        """One window of the given height and width: around one of the boxes, or anywhere."""
        height, width = example.image.shape[:2]
        left, top, right, bottom = 0.0, 0.0, float(width), float(height)
        if len(boxes) and rng.random() < self.around_object:
            if self.by_class:
                boxes = boxes[labels == rng.choice(np.unique(labels))]
            left, top, right, bottom = boxes[rng.integers(len(boxes))].tolist()
        y0 = _start(top, bottom, sides[0], height, rng)
        x0 = _start(left, right, sides[1], width, rng)
        return x0, y0, x0 + sides[1], y0 + sides[0]


def _start(first: float, last: float, side: int, length: int, rng: np.random.Generator) -> int:
    """Where a window begins that holds what is from `first` to `last`, or lies within that."""
    ends = np.clip([np.ceil(last) - side, np.floor(first)], 0, length - side).astype(int)
    return int(rng.integers(ends.min(), ends.max() + 1))


def _objects_cut(windows: np.ndarray, boxes: Float[np.ndarray, "n 4"]) -> np.ndarray:
    """How many boxes the border of each window cuts."""
    corners, ends = windows[:, None, :2], windows[:, None, 2:]
    touched = ((boxes[:, :2] < ends) & (boxes[:, 2:] > corners)).all(axis=2)
    inside = ((boxes[:, :2] >= corners) & (boxes[:, 2:] <= ends)).all(axis=2)
    return (touched & ~inside).sum(axis=1)
