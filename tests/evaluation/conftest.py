"""A data set and random results that every evaluation test can read at a glance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pytest


@dataclass(frozen=True)
class Annotations:
    image_ids: list
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    area: np.ndarray


@dataclass(frozen=True)
class GroundTruth:
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    records: Annotations


def _make(
    *images: Sequence[tuple],
    image_ids: list | None = None,
    size: tuple[int, int] = (200, 200),
    class_names: tuple[str, ...] = ("cat", "dog"),
) -> GroundTruth:
    """A data set from one list of objects `(box, label[, ignore])` per image."""
    rows = [row for objects in images for row in objects]
    boxes = np.array([row[0] for row in rows], np.float32).reshape(-1, 4)
    return GroundTruth(
        class_names=class_names,
        category_ids=tuple(7 + 3 * i for i in range(len(class_names))),
        records=Annotations(
            image_ids=image_ids or [100 - i for i in range(len(images))],
            sizes=np.full((len(images), 2), size, np.int32),
            offsets=np.cumsum([0, *map(len, images)]),
            boxes=boxes,
            labels=np.array([row[1] for row in rows], np.int32),
            ignore=np.array([len(row) > 2 and row[2] for row in rows], bool),
            area=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1),
        ),
    )


@pytest.fixture(scope="session")
def make_ground_truth() -> Callable[..., GroundTruth]:
    return _make


def _results(ground_truth: GroundTruth, *found: tuple) -> list[dict]:
    """COCO results from rows `(image index, xyxy box, label, score)`."""
    return [
        {
            "image_id": ground_truth.records.image_ids[image],
            "category_id": ground_truth.category_ids[label],
            "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
            "score": score,
        }
        for image, box, label, score in found
    ]


@pytest.fixture(scope="session")
def make_results() -> Callable[..., list[dict]]:
    return _results


@pytest.fixture(scope="session")
def random_case() -> Callable[[int], tuple[GroundTruth, list[dict]]]:
    """A data set and results from a seed: integer boxes, equal scores, ignored objects."""

    def make(seed: int) -> tuple[GroundTruth, list[dict]]:
        rng = np.random.default_rng(seed)

        def box():
            corner, sides = rng.integers(0, 120, 2), rng.integers(1, 130, 2)
            return [*corner.tolist(), *np.minimum(corner + sides, 200).tolist()]

        num_images, num_classes = rng.integers(1, 6), rng.integers(1, 4)
        images = [
            [
                (box(), rng.integers(num_classes), rng.random() < 0.2)
                for _ in range(rng.integers(0, 5))
            ]
            for _ in range(num_images)
        ]
        ground_truth = _make(*images, class_names=("cat", "dog", "eel")[:num_classes])
        found = []
        for i, objects in enumerate(images):
            near = [(o[0], o[1]) for o in objects for _ in range(rng.integers(0, 4))]
            far = [(box(), rng.integers(num_classes)) for _ in range(rng.integers(0, 4))]
            for base, label in near + far:
                moved = np.clip(np.array(base) + rng.integers(-8, 9, 4), 0, 200)
                moved[2:] = np.maximum(moved[2:], moved[:2] + 1)
                found.append((i, moved.tolist(), label, int(rng.integers(1, 8)) / 8))
        return ground_truth, _results(ground_truth, *found)

    return make
