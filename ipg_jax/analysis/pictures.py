"""Pictures of a data set: annotated images, and objects cut out of them."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8
from PIL import Image, ImageDraw

from ipg_jax import visualize
from ipg_jax.data import Source
from ipg_jax.text import shown

CROP_SIDE = 144
"""Pixels of the side of a crop on the page."""

CONTEXT = 3
"""A crop is this many times as large as its object."""

LEAST_CROP = 24
"""Pixels of the image in the side of a crop, at least."""

IMAGE_SIDE = 1280
"""Pixels of the long side of an image on the page, about."""

MOST_UNREADABLE = 16
"""Images that cannot be read after which no more are tried: folders may be gone, or far away."""

LINE = 2
"""Pixels of the width of frames, which surround what they mark."""


class Picture(NamedTuple):
    """A picture and what to write below it.

    Attributes:
      pixels: RGB.
      caption: what it shows.
      title: more about it, such as the name of the file.
      width: of it on the page, in pixels; None leaves that to the page.
    """

    pixels: UInt8[np.ndarray, "_ _ 3"]
    caption: str
    title: str
    width: int | None = None


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
        boxes = self._source.records.boxes[self._counted]
        order = np.argsort(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
        return self._crops(self._counted[order], limit, same_image=2)

    def of_class(self, label: int, limit: int) -> list[Picture]:
        """Objects of a class at random."""
        mine = self._counted[self._source.records.labels[self._counted] == label]
        return self._crops(self._rng.permutation(mine), limit)

    def densest(self) -> list[Picture]:
        """The image with the most objects, or none if it cannot be read."""
        records = self._source.records
        if not len(self._counted):
            return []
        image = np.repeat(np.arange(len(records)), np.diff(records.offsets))[self._counted]
        return self._images(np.array([np.bincount(image).argmax()]), 1)

    def random(self, limit: int) -> list[Picture]:
        """Images at random that have objects."""
        full = np.flatnonzero(np.diff(self._source.records.offsets))
        return self._images(self._rng.permutation(full), limit)

    def _images(self, indices: np.ndarray, limit: int) -> list[Picture]:
        found: list[Picture] = []
        for index, _, image in readable(indices, indices, self._load, limit):
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

    def _crops(self, rows: np.ndarray, limit: int, same_image: int | None = None) -> list[Picture]:
        records = self._source.records
        image = np.searchsorted(records.offsets, rows, side="right") - 1
        found: list[Picture] = []
        for row, index, pixels in readable(rows, image, self._load, limit, same_image):
            box, label = records.boxes[row].astype(np.float64), int(records.labels[row])
            found.append(crop_picture(self._source, index, pixels, box, label))
        return found


def readable(
    rows: Int64[np.ndarray, " n"],
    image: Int64[np.ndarray, " n"],
    load: Callable[[int], np.ndarray | None],
    limit: int,
    same_image: int | None = None,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yields what can be shown: rows, their images' indices, and these images.

    It gives up after `MOST_UNREADABLE` images that cannot be read.

    Args:
      rows: what to show, the most wanted first.
      image: index of each one's image.
      load: returns the image of an index; None if it cannot be read.
      limit: of rows.
      same_image: of rows of one image; None for any number.
    """
    uses: collections.Counter[int] = collections.Counter()
    unreadable: set[int] = set()
    for row, index in zip(rows.tolist(), image.tolist(), strict=True):
        if uses.total() == limit or len(unreadable) == MOST_UNREADABLE:
            return
        if index in unreadable or uses[index] == same_image:
            continue
        pixels = load(index)
        if pixels is None:
            unreadable.add(index)
        else:
            uses[index] += 1
            yield row, index, pixels


def crop_picture(
    source: Source,
    index: int,
    image: UInt8[np.ndarray, "h w 3"],
    box: Float64[np.ndarray, " 4"],
    label: int,
    others: Float64[np.ndarray, "n 4"] | None = None,
    text: str = "",
) -> Picture:
    """Returns the crop of an object with its class and size below it.

    Args:
      source: the data.
      index: of the image.
      image: RGB.
      box: `xyxy` in its pixels.
      label: of the object.
      others: see `crop`.
      text: more to write below it.
    """
    width, height = box[2:] - box[:2]
    name = shown(source.class_names[label], limit=14)
    return Picture(
        crop(image, box, label, others),
        f"{name} {width:.0f}x{height:.0f}{text}",
        shown(source.records.file_names[index]),
    )


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
    zoom = CROP_SIDE / side
    corner = np.round(center - side / 2).astype(int)
    picture = np.full((CROP_SIDE, CROP_SIDE, 3), 128, np.uint8)
    # Only what is inside the image is cut out: the window of a large object may be far larger.
    size = np.array(image.shape[1::-1])
    first, last = np.clip(corner, 0, size), np.clip(corner + side, 0, size)
    if (first < last).all():
        (x0, y0), (x1, y1) = first, last
        left, top = np.minimum(np.round(zoom * (first - corner)).astype(int), CROP_SIDE - 1)
        right, bottom = np.maximum(
            np.round(zoom * (last - corner)).astype(int), (left + 1, top + 1)
        )
        picture[top:bottom, left:right] = _resized(
            image[y0:y1, x0:x1], (int(bottom - top), int(right - left))
        )
    origin = np.tile(corner, 2)
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
    grows = size[0] * size[1] >= image.shape[0] * image.shape[1]
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    return np.asarray(Image.fromarray(image).resize(size[::-1], how))
