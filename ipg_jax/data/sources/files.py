"""What the sources with one file for each image share: start-up verification and loading."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from ipg_jax.data.images import (
    DEFAULT_RULES,
    ImageHeader,
    ImageRules,
    ImageTooLargeError,
    Size,
    decode_image,
    read_image_header,
)
from ipg_jax.data.pixels import Samples, UnknownRangeError
from ipg_jax.data.sources.base import LOST, DataReport, Rule, Source
from ipg_jax.files import read_regular

Verify = Literal["headers", "decode", "none"]
"""How images are checked at start-up: `headers` opens every file and reads its size, `decode` also
decodes it, `none` trusts the annotations (for remote stores where opening every file is slow)."""


class FileSource(Source):
    """A source whose images are files of their own.

    Attributes:
      paths: the file of each image, local or `gs://`.
      image_rules: how they are read.
    """

    def __init__(
        self, *, paths: Sequence[str], image_rules: ImageRules = DEFAULT_RULES, **attributes: Any
    ):
        super().__init__(**attributes)
        self.paths = list(paths)
        self.image_rules = image_rules

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        data = read_regular(self.paths[index])
        return decode_image(data, self.size(index), self.image_rules)


def verify_images(
    paths: Sequence[str],
    names: Sequence[str],
    sizes: Int32[np.ndarray, "n 2"],
    *,
    verify: Verify,
    threads: int,
    report: DataReport,
    rules: ImageRules = DEFAULT_RULES,
) -> tuple[Int32[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """Checks that every image can be read and has the annotated size.

    Args:
      paths: the image files.
      names: what the report calls them, with the folders that tell two of one name apart.
      sizes: annotated heights and widths; 0 where not annotated.
      verify: how thorough to be.
      threads: how many files are read at a time.
      report: receives the counts.
      rules: how the files are read.

    Returns:
      The true sizes, and False for every image that cannot be used.
    """
    annotated = [(height, width) for height, width in sizes.tolist()]

    def check(path: str, name: str, size: Size) -> tuple[Size, dict[Rule, str]]:
        """The true size, and the rules that the image falls under, with what the report says."""
        if verify == "none" and min(size) > 0:
            return size, {}
        try:
            source = read_regular(path) if verify == "decode" else path
            header = read_image_header(source, rules)
            true = rules.size(header, size)
            if isinstance(source, bytes):
                decode_image(source, true, rules)
        except (OSError, ValueError) as error:
            return size, {unusable(error): f"{name}: {error}"}
        found = header_rules(header, size, rules)
        if min(size) <= 0:
            found.append(Rule.SIZE_MISSING)
        elif size != true:
            found.append(Rule.SIZE_MISMATCH)
        return true, dict.fromkeys(found, name)

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        checked = list(pool.map(check, paths, names, annotated))
    for _, found in checked:
        for rule, text in found.items():
            report.add(rule, [text])
    true_sizes = np.array([size for size, _ in checked], np.int32).reshape(-1, 2)
    usable = np.array([not found.keys() & LOST for _, found in checked], bool)
    return true_sizes, usable


def unusable(error: OSError | ValueError) -> Rule:
    """Returns the rule by which an image is left out that failed to be read so."""
    if isinstance(error, ImageTooLargeError):
        return Rule.TOO_LARGE
    if isinstance(error, UnknownRangeError):
        return Rule.UNKNOWN_RANGE
    return Rule.UNREADABLE_IMAGE


def header_rules(header: ImageHeader, size: Size, rules: ImageRules) -> list[Rule]:
    """Returns the rules that a readable image falls under.

    Args:
      header: of the image.
      size: annotated height and width.
      rules: how it is read.
    """
    found = []
    if header.samples is Samples.DEEP:
        found.append(Rule.DEEP)
    elif header.samples is Samples.FLOATS:
        found.append(Rule.FLOATS)
    if header.orientation > 1:
        decided = size in (header.stored, header.oriented) and header.stored != header.oriented
        if rules.exif == "auto" and not decided:
            found.append(Rule.EXIF_UNDECIDED)
        elif rules.applies_orientation(header, size):
            found.append(Rule.EXIF_APPLIED)
        else:
            found.append(Rule.EXIF_IGNORED)
    return found
