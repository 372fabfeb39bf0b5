"""A data set whose annotations are written down, with images of noise, and a detector for it."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from ipg_jax import ops
from ipg_jax.analysis.proposal import Anchors
from ipg_jax.analysis.report import DetectorSettings
from ipg_jax.data import DataReport, Source
from ipg_jax.data.sources.base import build_records
from ipg_jax.images import make_geometry

STRIDES = {level: 2**level for level in range(2, 8)}
RETINANET = Anchors((3, 7), 4.0, (0.5, 1.0, 2.0), 3, STRIDES, 5)


def match(anchors, boxes, valid):
    """RetinaNet's matcher."""
    return ops.match_anchors(
        jnp.concatenate(anchors),
        boxes,
        valid,
        positive_threshold=0.5,
        negative_threshold=0.4,
        low_quality=True,
    )


def settings(image_size=(100, 200), anchors=RETINANET, **limits):
    return DetectorSettings(
        geometry=make_geometry(image_size, levels=1),
        anchors=anchors,
        foreground_iou=0.5,
        background_iou=0.4,
        match=match,
        limits=limits,
    )


def detection(image, box, label, score):
    """A result in COCO's format; the box is `xyxy`."""
    x0, y0, x1, y1 = box
    return {
        "image_id": image,
        "category_id": label,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "score": score,
    }


class ListedSource(Source):
    """Images of one size; each has a list of objects `(box, label[, ignore])`."""

    def __init__(
        self,
        *images: Sequence[tuple],
        size: tuple[int, int] = (100, 200),
        class_names: Sequence[str] = ("cat", "dog"),
        unreadable: Sequence[int] = (),
        image_ids: Sequence[int] | None = None,
    ):
        rows = [row for objects in images for row in objects]
        report = DataReport("listed")
        records = build_records(
            image_ids=list(range(len(images)) if image_ids is None else image_ids),
            file_names=[f"<{i}>.png" for i in range(len(images))],
            sizes=np.full((len(images), 2), size),
            image_index=np.repeat(np.arange(len(images)), list(map(len, images))),
            boxes=np.array([row[0] for row in rows], float).reshape(-1, 4),
            labels=np.array([row[1] for row in rows], int),
            ignore=np.array([len(row) > 2 and row[2] for row in rows], bool),
            area=np.full(len(rows), np.nan),
            keep=np.ones(len(images), bool),
            drop_empty=False,
            report=report,
        )
        self._broken = set(unreadable)
        super().__init__(
            name="listed",
            class_names=class_names,
            category_ids=range(len(class_names)),
            records=records,
            report=report,
        )

    def load_image(self, index: int) -> np.ndarray:
        if index in self._broken:
            raise OSError("gone")
        return np.random.default_rng(index).integers(0, 256, (*self.size(index), 3), np.uint8)
