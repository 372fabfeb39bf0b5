"""Images in which every object is a rectangle of a colour of its own, to find it again by."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np

from ipg_jax.data import DataReport, Example, Images, Objects, Source
from ipg_jax.data.sources.base import build_records

CELL = 12
"""Objects lie in cells of so many pixels, at most one in each, so that none covers another."""


def color(index: int, label: int) -> np.ndarray:
    """That of an object; all are apart from each other, from black and from grey."""
    return np.array([200, 20 + 5 * label, 10 * index], np.uint8)


def painted(example: Example, index: int = 0) -> np.ndarray:
    """The picture of an example's objects on black."""
    image = np.zeros_like(example.image)
    boxes = example.objects.boxes.astype(int)
    for label, (x0, y0, x1, y1) in zip(example.objects.labels, boxes, strict=True):
        image[y0:y1, x0:x1] = color(index, int(label))
    return image


def find(image: np.ndarray, wanted: np.ndarray) -> np.ndarray | None:
    """The box around all pixels of a colour."""
    ys, xs = np.nonzero((image == wanted).all(axis=2))
    if not len(ys):
        return None
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])


def make_example(height: int, width: int, boxes, ignore=()) -> Example:
    """Object `i` has the label `i`, and half the area of its box, as of a segmentation."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    labels = np.arange(len(boxes), dtype=np.int32)
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / 2
    objects = Objects(boxes, labels, np.isin(labels, ignore), area)
    blank = Example(np.zeros((height, width, 3), np.uint8), objects, (height, width))
    return blank._replace(image=painted(blank))


@st.composite
def examples(draw, most: int = 40, objects: int = 5) -> Example:
    """Images of 1 to `most` pixels a side with up to so many objects, some of them ignored."""
    height, width = draw(st.integers(1, most)), draw(st.integers(1, most))
    cells = [(y, x) for y in range(0, height, CELL) for x in range(0, width, CELL)]
    boxes = []
    for top, left in draw(st.lists(st.sampled_from(cells), max_size=objects, unique=True)):
        bottom, right = min(top + CELL, height), min(left + CELL, width)
        y0, x0 = draw(st.integers(top, bottom - 1)), draw(st.integers(left, right - 1))
        y1, x1 = draw(st.integers(y0 + 1, bottom)), draw(st.integers(x0 + 1, right))
        boxes.append((x0, y0, x1, y1))
    ignore = draw(st.sets(st.integers(0, objects)))
    return make_example(height, width, boxes, sorted(ignore))


class PaintedSource(Source):
    """Images from 24 x 36 pixels on, every third one portrait, with up to four objects."""

    def __init__(self, num_images: int = 12):
        rng = np.random.default_rng(0)
        sizes = 24 + rng.integers(0, 24, (num_images, 2))
        sizes = np.sort(sizes + np.array([0, 12]), axis=1)
        sizes[2::3] = sizes[2::3, ::-1]
        image_index, boxes, labels = [], [], []
        for index in range(num_images):
            for label in range(index % 5):
                y, x = CELL * (label // 2), CELL * (label % 2)
                y0, x0 = rng.integers(0, 6, 2) + np.array([y, x])
                height, width = rng.integers(3, 7, 2)
                image_index.append(index)
                boxes.append((x0, y0, x0 + width, y0 + height))
                labels.append(label)
        report = DataReport("painted")
        records = build_records(
            image_ids=list(range(num_images)),
            file_names=[f"image {index}" for index in range(num_images)],
            sizes=sizes,
            image_index=np.array(image_index),
            boxes=np.array(boxes, float),
            labels=np.array(labels),
            ignore=np.zeros(len(labels), bool),
            area=np.full(len(labels), np.nan),
            keep=np.ones(num_images, bool),
            drop_empty=False,
            report=report,
        )
        names = [f"class {label}" for label in range(4)]
        super().__init__(
            name="painted",
            class_names=names,
            category_ids=list(range(4)),
            records=records,
            report=report,
        )

    def load_image(self, index: int) -> np.ndarray:
        height, width = self.size(index)
        blank = np.zeros((height, width, 3), np.uint8)
        return painted(Example(blank, self.records.objects(index), (height, width)), index)


def images_of(source: Source) -> Images:
    """Its images, each seen in its own size."""
    return Images(source, lambda size: size)
