"""What every data source offers: annotations in flat arrays, images on demand, a report.

No data set is clean. `Rule` is the table of what may be wrong with a record and what is done about
it; a `DataReport` counts the cases of each rule and names the first few files, to be printed at
start-up.
"""

from __future__ import annotations

import abc
import dataclasses
import enum
import itertools
import logging
import threading
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, Integer, UInt8

from ipg_jax.data.images import Size
from ipg_jax.types import ImageId

logger = logging.getLogger(__name__)


class Rule(enum.Enum):
    """What may be wrong with a record, and what is done about it."""

    UNREADABLE_IMAGE = "image missing or unreadable: image dropped"
    UNREADABLE_ANNOTATION = "annotation file missing or unreadable: image dropped"
    DUPLICATE_IMAGE = "image listed more than once: first kept, others dropped"
    SIZE_MISSING = "image size not annotated: size of the file used"
    SIZE_MISMATCH = "annotated image size is not the file's: size of the file used, boxes clipped"
    EXIF_APPLIED = "annotated image size is that after EXIF orientation: orientation applied"
    EMPTY_IMAGE = "image without objects: kept"
    EMPTY_IMAGE_DROPPED = "image without objects: dropped as asked"
    UNKNOWN_IMAGE = "annotation of an image that is not listed: dropped"
    UNKNOWN_CATEGORY = "annotation of a category that is not listed: dropped"
    DUPLICATE_ANNOTATION = "annotation id used more than once: kept, ids are not used"
    NOT_FINITE = "box is not four finite numbers: dropped"
    NO_EXTENT = "box of zero or negative size: dropped"
    OUTSIDE = "box outside the image: dropped"
    CLIPPED = "box partly outside the image: clipped"
    IGNORED = "crowd or difficult object: left out of the training loss"


@dataclasses.dataclass
class DataReport:
    """How many records fell under each rule, and the first few of their names.

    Attributes:
      origin: the files that the report is about.
      counts: number of cases of each rule that was needed.
      examples: names of the first `max_examples` cases.
      max_examples: how many names are kept for each rule.
    """

    origin: str
    counts: dict[Rule, int] = dataclasses.field(default_factory=dict)
    examples: dict[Rule, list[str]] = dataclasses.field(default_factory=dict)
    max_examples: int = 5

    def add(self, rule: Rule, names: Iterable[str]) -> None:
        """Counts one case of `rule` for each name."""
        for name in names:
            self.counts[rule] = self.counts.get(rule, 0) + 1
            examples = self.examples.setdefault(rule, [])
            if len(examples) < self.max_examples and name not in examples:
                examples.append(name)

    def count(self, rule: Rule) -> int:
        """Number of cases of `rule`."""
        return self.counts.get(rule, 0)

    def lines(self) -> list[str]:
        """One line for each rule that was needed, in the order of `Rule`."""
        return [
            f"{self.counts[rule]} x {rule.value} ({', '.join(self.examples[rule])}"
            f"{', ...' if self.counts[rule] > len(self.examples[rule]) else ''})"
            for rule in Rule
            if rule in self.counts
        ]

    def __str__(self) -> str:
        return "\n  ".join([f"{self.origin}:", *(self.lines() or ["nothing to report"])])


@dataclasses.dataclass(frozen=True)
class Objects:
    """The annotated objects of one image.

    Attributes:
      boxes: `xyxy` in pixels of the original image; pixel (0, 0) covers [0, 1) x [0, 1).
      labels: 0-based class indices.
      ignore: True for crowd (COCO) and difficult (VOC) objects.
      area: square pixels; of the segmentation where the data set gives one, else of the box.
    """

    boxes: Float32[np.ndarray, "m 4"]
    labels: Int32[np.ndarray, " m"]
    ignore: Bool[np.ndarray, " m"]
    area: Float32[np.ndarray, " m"]


@dataclasses.dataclass(frozen=True)
class Records:
    """The annotations of a data set as flat arrays.

    The objects of image `i` are the rows `offsets[i]:offsets[i + 1]`.

    Attributes:
      image_ids: the data set's own name for each image.
      file_names: for reports and error messages.
      sizes: height and width of each image.
      offsets: where the objects of each image begin.
      boxes: see `Objects`, as are `labels`, `ignore` and `area`.
      annotated: False where the data set keeps its ground truth to itself, so that having no
        objects says nothing about an image.
    """

    image_ids: list[ImageId]
    file_names: list[str]
    sizes: Int32[np.ndarray, "n 2"]
    offsets: Int64[np.ndarray, " n+1"]
    boxes: Float32[np.ndarray, "t 4"]
    labels: Int32[np.ndarray, " t"]
    ignore: Bool[np.ndarray, " t"]
    area: Float32[np.ndarray, " t"]
    annotated: bool = True

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def max_objects(self) -> int:
        """The largest number of objects in one image."""
        return int(np.diff(self.offsets).max())

    def objects(self, index: int) -> Objects:
        """The objects of image `index`."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return Objects(self.boxes[rows], self.labels[rows], self.ignore[rows], self.area[rows])


def build_records(
    *,
    image_ids: Sequence[ImageId],
    file_names: Sequence[str],
    sizes: Integer[np.ndarray, "n 2"],
    image_index: Integer[np.ndarray, " t"],
    boxes: Float[np.ndarray, "t 4"],
    labels: Integer[np.ndarray, " t"],
    ignore: Bool[np.ndarray, " t"],
    area: Float[np.ndarray, " t"],
    keep: Bool[np.ndarray, " n"],
    drop_empty: bool,
    report: DataReport,
    annotated: bool = True,
) -> Records:
    """Applies the rules on boxes and on empty images, and groups the objects by image.

    Args:
      image_ids: the data set's own name for each image.
      file_names: the file name of each image.
      sizes: height and width of each image.
      image_index: which image each object belongs to.
      boxes: `xyxy` in pixels, not yet checked.
      labels: 0-based class indices.
      ignore: crowd and difficult objects.
      area: square pixels; NaN where not annotated, the box's area is then used.
      keep: False for images that are left out together with their objects.
      drop_empty: whether to leave out images without objects.
      report: receives the counts.
      annotated: see `Records`; without annotations, empty images are nothing to report.

    Raises:
      ValueError: no image is left.
    """
    limits = np.tile(sizes[image_index][:, ::-1], 2)
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    finite = np.isfinite(boxes).all(axis=1)
    extended = _has_extent(boxes)
    inside = _has_extent(clipped)
    # Annotations rounded to hundredths, as COCO's are, may stick out by the rounding.
    moved = (np.abs(clipped - boxes) > 0.015).any(axis=1)

    readable = keep[image_index]
    usable = readable & finite & extended & inside
    for rule, rows in (
        (Rule.NOT_FINITE, readable & ~finite),
        (Rule.NO_EXTENT, readable & finite & ~extended),
        (Rule.OUTSIDE, readable & finite & extended & ~inside),
        (Rule.CLIPPED, usable & moved),
        (Rule.IGNORED, usable & ignore),
    ):
        report.add(rule, (file_names[i] for i in image_index[rows].tolist()))

    counts = np.bincount(image_index[usable], minlength=len(image_ids))
    empty = keep & (counts == 0)
    rule = Rule.EMPTY_IMAGE_DROPPED if drop_empty else Rule.EMPTY_IMAGE
    if annotated:
        report.add(rule, itertools.compress(file_names, empty))
    if drop_empty:
        keep = keep & ~empty
    if not keep.any():
        raise ValueError(f"no usable image is left in {report}")

    order = np.flatnonzero(usable)
    order = order[np.argsort(image_index[order], kind="stable")]
    boxes_in_order = clipped[order]
    box_area = np.prod(boxes_in_order[:, 2:] - boxes_in_order[:, :2], axis=1)
    return Records(
        image_ids=list(itertools.compress(image_ids, keep)),
        file_names=list(itertools.compress(file_names, keep)),
        sizes=sizes[keep].astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts[keep])]).astype(np.int64),
        boxes=boxes_in_order,
        labels=labels[order].astype(np.int32),
        ignore=ignore[order],
        area=np.where(np.isfinite(area[order]), area[order], box_area).astype(np.float32),
        annotated=annotated,
    )


def _has_extent(boxes: Float[np.ndarray, "t 4"]) -> Bool[np.ndarray, " t"]:
    return np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


class Source(abc.ABC):
    """A data set with random access.

    Attributes:
      name: what to call it in messages.
      class_names: the classes, in the order of the labels.
      category_ids: the data set's own id for each label, for results files.
      records: the annotations.
      report: what was wrong with the data.
    """

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        records: Records,
        report: DataReport,
    ):
        unknown = (records.labels < 0) | (records.labels >= len(class_names))
        if unknown.any():
            raise ValueError(
                f"{name}: labels count the {len(class_names)} classes from 0, and the records have "
                f"{', '.join(map(str, np.unique(records.labels[unknown])[:5]))}"
            )
        self.name = name
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.records = records
        self.report = report
        self._unreadable: set[int] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.records)

    @abc.abstractmethod
    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns image `index` in RGB, of the size that `records.sizes` says; thread-safe.

        Raises:
          OSError: the file cannot be read.
          ValueError: the image cannot be decoded, or has another size.
        """

    def try_load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"] | None:
        """Like `load_image`, but None where that fails, so that one bad file ends no run.

        Every failing image is logged once and counted in `unreadable`.
        """
        try:
            return self.load_image(index)
        except (OSError, ValueError) as error:
            with self._lock:
                if index not in self._unreadable:
                    self._unreadable.add(index)
                    file_name = self.records.file_names[index]
                    logger.warning("%s: left out %s: %s", self.name, file_name, error)
            return None

    @property
    def unreadable(self) -> int:
        """How many images failed to load while running."""
        return len(self._unreadable)

    def size(self, index: int) -> Size:
        """Height and width of image `index`."""
        height, width = self.records.sizes[index].tolist()
        return height, width


def check_class_names(
    expected: Sequence[str], found: Sequence[str], *, origin: str, subset: bool = False
) -> None:
    """Compares the classes that were asked for with those of the data.

    Args:
      expected: the class names given by the user.
      found: the class names in the data.
      origin: the file, for the message.
      subset: whether the data may lack some of the expected classes.

    Raises:
      ValueError: a name is listed twice, or the sets differ; the message shows both lists.
    """
    wrong = set(found) - set(expected) if subset else set(found) ^ set(expected)
    if wrong or len(set(expected)) != len(expected):
        raise ValueError(
            f"the class names of {origin} are not the given ones ({', '.join(sorted(wrong))}).\n"
            f"given ({len(expected)}): {', '.join(expected)}\n"
            f"in the data ({len(found)}): {', '.join(found)}"
        )
