"""What a detector found in one picture."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from ipg_jax import visualize
from ipg_jax.types import ImageId, Size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """The objects found in one picture, best first.

    Attributes:
      boxes: `xyxy` in pixels of the picture as it was given.
      scores: probabilities.
      labels: 0-based classes.
      class_names: the name of each label.
      category_ids: the training data's own id of each label.
      size: height and width of the picture.
    """

    boxes: Float32[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    labels: Int32[np.ndarray, " n"]
    class_names: tuple[str, ...]
    category_ids: tuple[int | str, ...]
    size: Size

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def names(self) -> list[str]:
        """The class name of each object."""
        return [self.class_names[label] for label in self.labels]

    def select(self, mask: Bool[np.ndarray, " n"]) -> Prediction:
        """Returns the objects of which the mask says so: `found.select(found.scores > 0.5)`."""
        return dataclasses.replace(
            self, boxes=self.boxes[mask], scores=self.scores[mask], labels=self.labels[mask]
        )

    def to_coco(self, image_id: ImageId) -> list[dict[str, Any]]:
        """Returns the objects in COCO's results format, boxes as (x, y, width, height).

        Args:
          image_id: the data set's own name of the image.
        """
        return [
            {
                "image_id": image_id,
                "category_id": self.category_ids[label],
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "score": score,
            }
            for (x0, y0, x1, y1), score, label in zip(
                self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), strict=True
            )
        ]

    def to_supervision(self) -> Any:
        """Returns the objects as `supervision.Detections`, for trackers, zones and annotators.

        Raises:
          ImportError: the package `supervision` is not installed.
        """
        import supervision

        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names)},
        )

    def crops(self, image: UInt8[np.ndarray, "h w 3"]) -> list[UInt8[np.ndarray, "_ _ 3"]]:
        """Returns the part of the picture in each box, all pixels that it touches, one at least.

        Args:
          image: the picture.

        Raises:
          ValueError: the picture has another size.
        """
        self._check_size(image)
        height, width = self.size
        lower = np.floor(self.boxes[:, :2]).clip(0, [width - 1, height - 1]).astype(int)
        upper = np.ceil(self.boxes[:, 2:]).clip(lower + 1, [width, height]).astype(int)
        return [
            image[y0:y1, x0:x1]
            for (x0, y0), (x1, y1) in zip(lower.tolist(), upper.tolist(), strict=True)
        ]

    def draw(self, image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Returns a copy of the picture with the objects' boxes, names and scores.

        Args:
          image: the picture, RGB.

        Raises:
          ValueError: the picture has another size.
        """
        self._check_size(image)
        return visualize.draw_boxes(image, self.boxes, self.labels, self.class_names, self.scores)

    def _check_size(self, image: np.ndarray) -> None:
        if image.shape[:2] != self.size:
            raise ValueError(f"the picture is of {image.shape[:2]}, the prediction of {self.size}")
