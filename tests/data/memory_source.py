"""A data set of any size that needs no files."""

from __future__ import annotations

import numpy as np

from ipg_jax.data import DataReport, Source
from ipg_jax.data.sources.base import build_records


class MemorySource(Source):
    """Images of 4 x 6 pixels, about a quarter of them 6 x 4; pixels are a function of the index.

    Image `i` has `i % 4` objects and the id `i`.
    """

    def __init__(self, num_images: int):
        rng = np.random.default_rng(0)
        portrait = rng.random((num_images, 1)) < 0.27  # COCO's share
        image_index = np.repeat(np.arange(num_images), np.arange(num_images) % 4)
        corners = rng.integers(0, 3, (len(image_index), 2)).astype(float)
        report = DataReport("memory")
        records = build_records(
            image_ids=list(range(num_images)),
            file_names=[f"image {index}" for index in range(num_images)],
            sizes=np.where(portrait, [6, 4], [4, 6]),
            image_index=image_index,
            boxes=np.concatenate([corners, corners + 1], axis=1),
            labels=np.zeros(len(image_index), int),
            ignore=np.zeros(len(image_index), bool),
            area=np.full(len(image_index), np.nan),
            keep=np.ones(num_images, bool),
            drop_empty=False,
            report=report,
        )
        super().__init__(
            name="memory", class_names=["thing"], category_ids=[1], records=records, report=report
        )

    def load_image(self, index: int) -> np.ndarray:
        return np.random.default_rng(index).integers(0, 256, (*self.size(index), 3), np.uint8)
