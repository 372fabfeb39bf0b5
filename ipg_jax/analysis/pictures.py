"""Pictures of a data set: annotated images, and objects cut out of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image, ImageDraw

from ipg_jax import visualize
from ipg_jax.data import Records, Source
from ipg_jax.text import shown

CROP_SIDE = 144
"""Pixels of the side of a crop on the page."""

CONTEXT = 3
"""A crop is this many times as large as its object."""

LEAST_CROP = 24
"""Pixels of the image in the side of a crop, at least."""

IMAGE_SIDE = 1280
"""Pixels of the long side of an image on the page, about."""

LINE = 2
"""Pixels of the width of frames, which surround what they mark."""


class Picture(NamedTuple):
    """A picture and what to write below it.

    Attributes:
      pixels: RGB.
      caption: what it shows.
      title: more about it, such as the name of the file.
    """

    pixels: UInt8[np.ndarray, "_ _ 3"]
    caption: str
    title: str


class Album:
    """Makes the pictures of a source; an image that cannot be read makes none.

    Choices are random, and the same every time.

    Args:
      source: the data.
    """

    def __init__(self, source: Source):
        self._source = source
        self._rng = np.random.default_rng(0)
        self._load = functools.lru_cache(maxsize=4)(source.try_load_image)
        self._counted = np.flatnonzero(~source.records.ignore)

    def smallest(self, limit: int) -> list[Picture]:
        """The smallest objects, no more than two of an image."""
        records = self._source.records
        boxes = records.boxes[self._counted]
        order = self._counted[np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))]
        chosen: list[int] = []
        uses: dict[int, int] = {}
        for row in order[: 50 * limit].tolist():
            image = _image_of(records, row)
            uses[image] = uses.get(image, 0) + 1
            if uses[image] <= 2:
                chosen.append(row)
        return self._crops(chosen, limit)

    def of_class(self, label: int, limit: int) -> list[Picture]:
        """Objects of a class at random."""
        mine = self._counted[self._source.records.labels[self._counted] == label]
        return self._crops(self._rng.permutation(mine)[: 2 * limit].tolist(), limit)

    def densest(self) -> list[Picture]:
        """The image with the most objects, or none if it cannot be read."""
        records = self._source.records
        if not len(self._counted):
            return []
        image = np.repeat(np.arange(len(records)), np.diff(records.offsets))[self._counted]
        return self._images([int(np.bincount(image).argmax())], 1)

    def random(self, limit: int) -> list[Picture]:
        """Images at random that have objects."""
        records = self._source.records
        full = np.flatnonzero(np.diff(records.offsets))
        return self._images(self._rng.permutation(full)[: 2 * limit].tolist(), limit)

    def _images(self, indices: Sequence[int], limit: int) -> list[Picture]:
        found: list[Picture] = []
        for index in indices:
            image = self._load(index) if len(found) < limit else None
            if image is None:
                continue
            objects = self._source.records.objects(index)
            height, width = image.shape[:2]
            zoom = IMAGE_SIDE / max(height, width)
            zoom = max(1, round(zoom)) if zoom >= 1 else zoom
            picture = _resized(image, (round(zoom * height), round(zoom * width)))
            pixels = _framed(picture, zoom * objects.boxes, objects.labels)
            name = shown(self._source.records.file_names[index])
            caption = f"{name}, {width} x {height} pixels, {len(objects.boxes)} objects"
            found.append(Picture(pixels, caption, name))
        return found

    def _crops(self, rows: Sequence[int], limit: int) -> list[Picture]:
        found: list[Picture] = []
        for row in rows:
            index = _image_of(self._source.records, row)
            image = self._load(index) if len(found) < limit else None
            if image is None:
                continue
            records = self._source.records
            box, label = records.boxes[row].astype(np.float64), int(records.labels[row])
            width, height = box[2:] - box[:2]
            caption = f"{shown(self._source.class_names[label], limit=14)} {width:.0f}x{height:.0f}"
            title = shown(records.file_names[index])
            found.append(Picture(crop(image, box, label), caption, title))
        return found


def crop(
    image: UInt8[np.ndarray, "h w 3"],
    box: np.ndarray,
    label: int,
    others: Float64[np.ndarray, "n 4"] | None = None,
) -> UInt8[np.ndarray, "s s 3"]:
    """Cuts an object out with what is around it, and frames it; what is beyond the image is grey.

    Args:
      image: RGB.
      box: `xyxy` in its pixels.
      label: of the object, for the colour.
      others: more boxes, which get thin white frames.
    """
    center = (box[:2] + box[2:]) / 2
    side = max(LEAST_CROP, int(np.ceil(CONTEXT * max(box[2:] - box[:2]))))
    x, y = np.round(center - side / 2).astype(int)
    height, width = image.shape[:2]
    window = np.full((side, side, 3), 128, np.uint8)
    inside = image[max(y, 0) : min(y + side, height), max(x, 0) : min(x + side, width)]
    top, left = max(-y, 0), max(-x, 0)
    window[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    zoom = CROP_SIDE / side
    origin = np.array([x, y, x, y])
    picture = _resized(window, (CROP_SIDE, CROP_SIDE))
    if others is not None and len(others):
        drawn = Image.fromarray(picture)
        for x0, y0, x1, y1 in np.round(zoom * (others - origin)).astype(int).tolist():
            ImageDraw.Draw(drawn).rectangle((x0, y0, x1, y1), outline="white")
        picture = np.asarray(drawn)
    return _framed(picture, zoom * (box - origin)[None], np.array([label]))


def _framed(image: np.ndarray, boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The picture with boxes in the colours of their classes."""
    names = [""] * (1 + max(labels.tolist(), default=0))  # not written
    return visualize.draw_boxes(image, boxes, labels, names, captions="none", line_width=LINE)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture in another size; pixels stay visible where it grows."""
    grows = size[0] >= image.shape[0]
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size[::-1], how))


def _image_of(records: Records, row: int) -> int:
    return int(np.searchsorted(records.offsets, row, side="right") - 1)
