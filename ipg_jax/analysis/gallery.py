"""Pictures of what a run missed and of what it detected wrongly."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from ipg_jax.analysis.elements import figures, note, section
from ipg_jax.analysis.errors import Judged, Outcome
from ipg_jax.analysis.pictures import Picture, crop_picture, readable
from ipg_jax.analysis.report import EDGES, size_class_of
from ipg_jax.analysis.tables import range_label
from ipg_jax.data import Source

CROPS = 8
"""Pictures of each size."""

SAME_IMAGE = 2
"""Pictures of a size that may be of one image."""


class Gallery:
    """Crops of errors, size by size; an image that cannot be read makes none.

    Args:
      source: the data that the run was evaluated on.
      judged: its detections.
      best: the threshold of each class.
    """

    def __init__(self, source: Source, judged: Judged, best: Float64[np.ndarray, " c"]):
        self._source, self._judged, self._best = source, judged, best
        self._load = functools.lru_cache(maxsize=4)(source.try_load_image)

    def missed(self) -> str:
        """The objects that were not found at the thresholds, the least noticed first."""
        judged, objects = self._judged, self._judged.objects
        score = np.append(judged.found.score, 0.0)[judged.finder]
        order = np.lexsort((-judged.object_side, score))
        order = order[judged.missed(self._best)[order]]
        found = judged.found.of(judged.kept(self._best))

        def picture(k: int, index: int, image: np.ndarray) -> Picture:
            text = f", {score[k]:.2f}" if score[k] else ""
            here = found.boxes[found.image == index]
            box, label = objects.boxes[k], int(objects.label[k])
            return crop_picture(self._source, index, image, box, label, here, text)

        return section(
            "Missed objects",
            note(
                "Coloured: what was not found, the least noticed and largest first; the score is "
                "that of a detection below the threshold. White: what was detected around it."
            ),
            self._by_size(order, judged.object_side, objects.image, picture),
        )

    def false_positives(self) -> str:
        """The detections at the thresholds that are wrong, the surest first."""
        judged, found = self._judged, self._judged.found
        kept = judged.kept(self._best) & (judged.outcome != Outcome.TRUE_POSITIVE)
        order = np.flatnonzero(kept)  # they are the best first

        def picture(k: int, index: int, image: np.ndarray) -> Picture:
            text = f", {found.score[k]:.2f}, {Outcome(int(judged.outcome[k])).name.lower()}"
            here = judged.objects.boxes[judged.objects.image == index]
            box, label = found.of(np.array([k])).boxes[0], int(found.label[k])
            return crop_picture(self._source, index, image, box, label, here, text)

        return section(
            "False positives",
            note(
                "Coloured: what was detected wrongly, the surest first, and by what error. White: "
                "the objects around it."
            ),
            self._by_size(order, judged.found_side, found.image, picture),
        )

    def _by_size(
        self,
        order: np.ndarray,
        side: np.ndarray,
        image: np.ndarray,
        picture: Callable[[int, int, np.ndarray], Picture],
    ) -> str:
        """The pictures of each size class, the smallest first."""
        size_class = size_class_of(side[order])
        parts = []
        for k in range(len(EDGES)):
            mine = order[size_class == k]
            if not len(mine):
                continue
            shown = readable(mine, image[mine], self._load, CROPS, SAME_IMAGE)
            pictures = [picture(*one) for one in shown]
            heading = f"<h3>{range_label(EDGES, k)} pixels: {len(mine):,}</h3>"
            parts.append(heading + figures("crops", pictures))
        return "".join(parts) or note("There are none.")
