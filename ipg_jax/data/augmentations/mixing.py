"""Augmentations that take pixels and objects of other training images."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Integer

from ipg_jax.data.augmentations.base import (
    SHARE,
    Augmentation,
    Example,
    Images,
    at_final_size,
    cut,
    option,
)
from ipg_jax.data.augmentations.geometry import FACTORS, RandomCrop, scaled
from ipg_jax.data.crop import MIN_VISIBLE, visible_shares
from ipg_jax.data.sources.base import NO_OBJECTS, Objects
from ipg_jax.fields import FLAG, real, whole

FILL = (124, 116, 104)
"""The mean colour of ImageNet, which is near zero once it is normalised."""

PAIRS = 2**20
"""How many pairs of objects are compared at a time, give or take a row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mosaic(Augmentation):
    """Four images around a point, the image at the top left and three others.

    The mosaic of Bochkovskiy et al. (2020), "YOLOv4", in the size of the image. Each of the four is
    scaled by a factor of its own, and cut to its part as `random_crop` does; one that is smaller
    than its part touches the point, and the rest is grey. The point lies in the middle half of the
    height and of the width. Reading an image takes four times as long.

    Attributes:
      probability: how often.
      factors: least and largest factor, drawn uniformly.
      min_visible: least share of a box's area that must be left of an object.
    """

    factors: tuple[float, float] = option(FACTORS, (0.5, 1.0))
    min_visible: float = option(SHARE, MIN_VISIBLE)

    def objects_at_most(self, before: int, of_an_image: int) -> int:
        """See `Augmentation`."""
        return before + 3 * of_an_image

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        height, width = example.size
        y, x = (round(side * rng.uniform(0.25, 0.75)) for side in example.size)
        image = np.empty((height, width, 3), np.uint8)
        image[:] = FILL
        parts = [NO_OBJECTS]
        for bottom, right in ((False, False), (False, True), (True, False), (True, True)):
            limit = (height - y if bottom else y, width - x if right else x)
            one = images.draw(rng) if bottom or right else example
            one = one._replace(size=scaled(one.size, rng.uniform(*self.factors)))
            if not all(limit):  # of an image of one row or column
                continue
            crop = RandomCrop(size=limit, min_visible=self.min_visible)
            one = at_final_size(crop.apply(one, rng, images))
            top, left = (y if bottom else y - one.size[0]), (x if right else x - one.size[1])
            image[top : top + one.size[0], left : left + one.size[1]] = one.image
            parts.append(_shifted(one.objects, left, top))
        return Example(image, Objects.concatenated(parts), example.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyPaste(Augmentation):
    """Pastes small objects of another image at random positions, with a border that fades.

    After Kisantal et al. (2019), "Augmentation for small object detection", and Dwibedi et al.
    (2017), "Cut, paste and learn". Boxes are pasted, with their background. Only objects are taken
    that are no regions to ignore, and that bring no more than `max_cover` of another one's box
    along. A position is taken at which no object of the image, pasted ones and regions to ignore
    included, is covered by more than `max_cover` of its box by all that is pasted, with borders.

    Attributes:
      probability: how often.
      max_objects: at most so many are pasted, at least one if the other image has any that fits.
      max_side: the largest object that is pasted, as the root of its box's area in pixels of the
        network input.
      factors: least and largest factor by which an object is scaled, drawn uniformly.
      border: width of the border in pixels of the network input, over which what is pasted fades;
        0 for a hard edge.
      max_cover: largest share of the box of an object that may be covered, or brought along.
      same_image: whether objects are taken from the image itself, which saves reading another.
      tries: after so many positions that cover too much, an object is not pasted.
    """

    probability: float = option(SHARE, 0.5)
    max_objects: int = option(whole(1, 1000), 3)
    max_side: float = option(real(above=0.0, most=65536.0), 32.0)
    factors: tuple[float, float] = option(FACTORS, (0.8, 1.25))
    border: float = option(real(0.0, 1000.0), 3.0)
    max_cover: float = option(SHARE, 0.1)
    same_image: bool = option(FLAG, False)
    tries: int = option(whole(1, 1000), 10)

    def objects_at_most(self, before: int, of_an_image: int) -> int:
        """See `Augmentation`."""
        return before + self.max_objects

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        donor = example if self.same_image else images.draw(rng)
        candidates = self._candidates(donor)
        if not len(candidates):
            return example
        image, parts = example.image.copy(), [example.objects]
        covered = np.zeros(len(example.objects.boxes))  # what share of each box
        for index in rng.choice(candidates, rng.integers(1, self.max_objects + 1)).tolist():
            patch, blend = self._patch(donor, index, example, rng.uniform(*self.factors))
            height, width = blend.shape
            rows, columns = image.shape[0] - height, image.shape[1] - width
            if min(rows, columns) < 0:
                continue
            for _ in range(self.tries):
                y, x = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
                boxes = np.concatenate([part.boxes for part in parts])
                together = covered + visible_shares(boxes, (x, y, x + width, y + height))
                if (together <= self.max_cover).all():
                    covered = np.append(together, 0.0)
                    below = image[y : y + height, x : x + width]
                    mixed = below + blend[..., None] * (patch.image - below.astype(np.float32))
                    below[:] = np.rint(mixed)
                    parts.append(_shifted(patch.objects, x, y))
                    break
        return example._replace(image=image, objects=Objects.concatenated(parts))

    def _candidates(self, donor: Example) -> Integer[np.ndarray, " k"]:
        """Indices of the objects of an image that can be pasted elsewhere."""
        boxes = donor.objects.boxes
        sides = np.sqrt(np.prod((boxes[:, 2:] - boxes[:, :2]) * donor.scale[::-1], axis=1))
        small = np.flatnonzero(~donor.objects.ignore & (sides <= self.max_side))
        # Pairs of a few objects at a time: all of a dense scene would not fit into memory.
        groups = np.array_split(small, 1 + len(small) * len(boxes) // PAIRS)
        return np.concatenate([rows[self._alone(boxes, rows)] for rows in groups])

    def _alone(
        self, boxes: Float[np.ndarray, "n 4"], rows: Integer[np.ndarray, " k"]
    ) -> Bool[np.ndarray, " k"]:
        """Which of some boxes bring no more than `max_cover` of another one along."""
        corners = np.maximum(boxes[rows, None, :2], boxes[:, :2])
        ends = np.minimum(boxes[rows, None, 2:], boxes[:, 2:])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        brought = np.prod(np.maximum(ends - corners, 0), axis=2) / np.maximum(areas, 1e-12)
        brought[np.arange(len(rows)), rows] = 0
        return (brought <= self.max_cover).all(axis=1)

    def _patch(
        self, donor: Example, index: int, example: Example, factor: float
    ) -> tuple[Example, Float[np.ndarray, "h w"]]:
        """An object and its border in pixels of the image to paste it into, and how it is blended.

        The second is the weight of each pixel: 1 in the box, 0 at the end of the border.
        """
        margin = self.border / donor.scale[::-1]
        box = donor.objects.boxes[index]
        x0, y0 = np.maximum(np.floor(box[:2] - margin), 0).astype(int).tolist()
        height, width = donor.image.shape[:2]
        x1, y1 = np.minimum(np.ceil(box[2:] + margin), (width, height)).astype(int).tolist()
        ratio = factor * donor.scale / example.scale
        size = max(round((y1 - y0) * ratio[0]), 1), max(round((x1 - x0) * ratio[1]), 1)
        alone = donor._replace(objects=donor.objects.of(np.array([index])))
        patch = at_final_size(cut(alone, (x0, y0, x1, y1), size, min_visible=0.0))
        left, top, right, bottom = patch.objects.boxes[0].tolist()
        fade = np.hypot(
            _distances(size[0], top, bottom)[:, None] * example.scale[0],
            _distances(size[1], left, right) * example.scale[1],
        )
        return patch, np.clip(1 - fade / max(self.border, 1e-6), 0, 1)


def _distances(side: int, first: float, last: float) -> Float[np.ndarray, " n"]:
    """How far the centres of a row of pixels are from a span; 0 for pixels that it touches."""
    pixels = np.arange(side)
    outside = np.maximum(first - pixels - 0.5, pixels + 0.5 - last)
    return np.where((pixels < last) & (pixels + 1 > first), 0.0, outside)


def _shifted(objects: Objects, x: int, y: int) -> Objects:
    """The objects of a part of an image that begins at (x, y), in pixels of the whole."""
    boxes = objects.boxes + np.array([x, y, x, y], np.float32)
    return dataclasses.replace(objects, boxes=boxes)
