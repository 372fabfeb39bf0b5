"""Data without a split of their own, divided into images to train on and to evaluate on."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Part(NamedTuple):
    """One of the two parts of a data set.

    A hash of the seed and of an image's id says in which part the image is. So it stays there when
    other images come or go, whatever machine asks; and a part has about its share of the images,
    not exactly.

    Attributes:
      eval_share: about how many of the images are those to evaluate on, from 0 to 1.
      train: whether this is the other part, to train on.
      seed: another one divides otherwise.
    """

    eval_share: float = 0.0
    train: bool = True
    seed: int = 0

    def has(self, image_id: str) -> bool:
        """Returns whether an image is in this part."""
        text = f"{self.seed}/{image_id}".encode(errors="backslashreplace")
        digest = hashlib.blake2b(text, digest_size=8).digest()
        to_evaluate = int.from_bytes(digest, "big") < self.eval_share * 2**64
        return to_evaluate != self.train


WHOLE = Part()
"""All images."""
