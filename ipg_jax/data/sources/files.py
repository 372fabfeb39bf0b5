"""What the sources with one file for each image share: start-up verification and loading."""

from __future__ import annotations

import concurrent.futures
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from ipg_jax.data.sources.base import LOST, DataReport, Rule, Source
from ipg_jax.data.sources.file_tree import real_path
from ipg_jax.files import read_regular
from ipg_jax.images import (
    DEFAULT_OPTIONS,
    ImageHeader,
    ImageOptions,
    ImageTooLargeError,
    Samples,
    UnknownRangeError,
    decode_image,
    read_image_header,
)
from ipg_jax.text import shown
from ipg_jax.types import Size

logger = logging.getLogger(__name__)

T = TypeVar("T")

Verify = Literal["headers", "decode", "none"]
"""How images are checked at start-up: `headers` opens every file and reads its size, `decode` also
decodes it, `none` trusts the annotations (for remote stores where opening every file is slow) and
reports what it finds when an image is loaded."""


class VerifiedImages(NamedTuple):
    """What is known of image files at start-up.

    Attributes:
      sizes: heights and widths, the annotated ones of files that were not opened.
      usable: False for every image that cannot be used.
      unopened: the files that were not opened.
    """

    sizes: Int32[np.ndarray, "n 2"]
    usable: Bool[np.ndarray, " n"]
    unopened: set[str]


class FileSource(Source):
    """A source whose images are files of their own.

    Attributes:
      paths: the file of each image, local or `gs://`.
      image_options: how they are read.
    """

    def __init__(
        self,
        *,
        paths: Sequence[str],
        unopened: Iterable[str] = (),
        image_options: ImageOptions = DEFAULT_OPTIONS,
        **attributes: Any,
    ):
        super().__init__(**attributes)
        self.paths = list(paths)
        self.image_options = image_options
        self._unopened = set(unopened)

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        path, size = self.paths[index], self.size(index)
        data = read_regular(path)
        pixels = decode_image(data, size, self.image_options)
        if path in self._unopened:
            found = header_rules(
                read_image_header(data, self.image_options), size, self.image_options
            )
            self._report_late(path, self.records.file_names[index], found)
        return pixels

    def _report_late(self, path: str, name: str, found: Iterable[Rule]) -> None:
        """Counts what start-up did not look at, and logs the first case of each rule."""
        with self._lock:
            if path not in self._unopened:  # another thread was faster
                return
            self._unopened.remove(path)
            for rule in found:
                if not self.report.count(rule):
                    logger.warning("%s: %s (%s, ...)", self.name, rule.value, shown(name))
                self.report.add(rule, [name])


def verify_images(
    paths: Sequence[str],
    names: Sequence[str],
    sizes: Int32[np.ndarray, "n 2"] | None,
    *,
    verify: Verify,
    threads: int,
    report: DataReport,
    options: ImageOptions = DEFAULT_OPTIONS,
) -> VerifiedImages:
    """Checks that every image can be read, has the annotated size and a file of its own.

    Args:
      paths: the image files.
      names: what the report calls them, with the folders that tell two of one name apart.
      sizes: annotated heights and widths; 0 where not annotated; None if the format has none.
      verify: how thorough to be.
      threads: how many files are read at a time.
      report: receives the counts.
      options: how the files are read.
    """
    given = np.zeros((len(paths), 2), np.int32) if sizes is None else sizes
    annotated = [(height, width) for height, width in given.tolist()]

    unopened = {
        path
        for path, size in zip(paths, annotated, strict=True)
        if verify == "none" and min(size) > 0
    }

    def check(path: str, name: str, size: Size) -> tuple[Size, dict[Rule, str]]:
        if path in unopened and min(size) > 0:
            return size, {}
        true, found = check_image(path, name, size, verify=verify, options=options)
        if sizes is not None and min(size) <= 0 and not found.keys() & LOST:
            found[Rule.SIZE_MISSING] = name
        return true, found

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        checked = list(pool.map(check, paths, names, annotated))
        real_paths = list(pool.map(os.path.normpath if verify == "none" else real_path, paths))
    seen: set[str] = set()
    for path, name in zip(real_paths, names, strict=True):
        if path in seen:
            report.add(Rule.SHARED_FILE, [name])
        seen.add(path)
    for _, found in checked:
        for rule, text in found.items():
            report.add(rule, [text])
    true_sizes = np.array([size for size, _ in checked], np.int32).reshape(-1, 2)
    usable = np.array([not found.keys() & LOST for _, found in checked], bool)
    return VerifiedImages(true_sizes, usable, unopened)


def check_image(
    source: bytes | str, name: str, size: Size, *, verify: Verify, options: ImageOptions
) -> tuple[Size, dict[Rule, str]]:
    """Returns the true size of an image, and the rules it falls under, with what the report says.

    Args:
      source: the contents of its file, or the path.
      name: what the report calls it.
      size: annotated height and width; 0 where not annotated.
      verify: how thorough to be.
      options: how it is read.
    """
    try:
        if verify == "decode" and isinstance(source, str):
            source = read_regular(source)
        header = read_image_header(source, options)
        true = options.size(header, size)
        if verify == "decode" and isinstance(source, bytes):
            decode_image(source, true, options)
    except (OSError, ValueError) as error:
        return size, {unusable(error): f"{name}: {error}"}
    found = header_rules(header, size, options)
    if min(size) > 0 and size != true:
        found.append(Rule.SIZE_MISMATCH)
    return true, dict.fromkeys(found, name)


def attempt(read: Callable[..., T], *arguments: Any) -> T | OSError | ValueError:
    """Returns what `read` returns, or the error by which it says that a file cannot be read."""
    try:
        return read(*arguments)
    except (OSError, ValueError) as error:
        return error


def unusable(error: OSError | ValueError) -> Rule:
    """Returns the rule by which an image is left out that failed to be read so."""
    if isinstance(error, ImageTooLargeError):
        return Rule.TOO_LARGE
    if isinstance(error, UnknownRangeError):
        return Rule.UNKNOWN_RANGE
    return Rule.UNREADABLE_IMAGE


def header_rules(header: ImageHeader, size: Size, options: ImageOptions) -> list[Rule]:
    """Returns the rules that a readable image falls under.

    Args:
      header: of the image.
      size: annotated height and width.
      options: how it is read.
    """
    found = []
    if header.samples is Samples.DEEP:
        found.append(Rule.DEEP)
    elif header.samples is Samples.FLOATS:
        found.append(Rule.FLOATS)
    if header.orientation > 1:
        decided = size in (header.stored, header.oriented) and header.stored != header.oriented
        if options.exif == "auto" and not decided:
            found.append(Rule.EXIF_UNDECIDED)
        elif options.applies_orientation(header, size):
            found.append(Rule.EXIF_APPLIED)
        else:
            found.append(Rule.EXIF_IGNORED)
    return found
