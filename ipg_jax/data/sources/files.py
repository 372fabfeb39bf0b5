"""What the sources with one file for each image share: start-up verification and loading."""

from __future__ import annotations

import concurrent.futures
import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from ipg_jax.data.images import Size, decode_image, read_file, read_image_size
from ipg_jax.data.sources.base import DataReport, Rule, Source

Verify = Literal["headers", "decode", "none"]
"""How images are checked at start-up: `headers` opens every file and reads its size, `decode` also
decodes it, `none` trusts the annotations (for remote stores where opening every file is slow)."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp"),
    *(".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
)
"""What the names of image files end in, in small letters; of the formats that are read."""


class FileSource(Source):
    """A source whose images are files of their own.

    Attributes:
      paths: the file of each image, local or `gs://`.
    """

    def __init__(self, *, paths: Sequence[str], **attributes: Any):
        super().__init__(**attributes)
        self.paths = list(paths)

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        return decode_image(read_file(self.paths[index]), self.size(index))


def verify_images(
    paths: Sequence[str],
    sizes: Int32[np.ndarray, "n 2"],
    *,
    verify: Verify,
    threads: int,
    report: DataReport,
) -> tuple[Int32[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """Checks that every image can be read and has the annotated size.

    Args:
      paths: the image files.
      sizes: annotated heights and widths; 0 where not annotated.
      verify: how thorough to be.
      threads: how many files are read at a time.
      report: receives the counts.

    Returns:
      The true sizes, and False for every image that cannot be used.
    """
    names = [os.path.basename(path) for path in paths]
    annotated = [(height, width) for height, width in sizes.tolist()]

    def check(path: str, size: Size) -> tuple[Size, Rule | None]:
        """The true size, and the rule that the image falls under."""
        if verify == "none" and min(size) > 0:
            return size, None
        try:
            header = read_image_size(path)
            true, rule = header.stored, None
            if min(size) <= 0:
                rule = Rule.SIZE_MISSING
            elif size == header.oriented != header.stored:
                true, rule = header.oriented, Rule.EXIF_APPLIED
            elif size != header.stored:
                rule = Rule.SIZE_MISMATCH
            if verify == "decode":
                decode_image(read_file(path), true)
        except (OSError, ValueError):
            return size, Rule.UNREADABLE_IMAGE
        return true, rule

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        checked = list(pool.map(check, paths, annotated))
    for name, (_, rule) in zip(names, checked, strict=True):
        if rule is not None:
            report.add(rule, [name])
    true_sizes = np.array([size for size, _ in checked], np.int32).reshape(-1, 2)
    readable = np.array([rule is not Rule.UNREADABLE_IMAGE for _, rule in checked], bool)
    return true_sizes, readable
