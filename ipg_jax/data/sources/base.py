"""What every data source offers: annotations in flat arrays, images on demand, a report.

No data set is clean. `Rule` is the table of what may be wrong with a record and what is done about
it; a `DataReport` counts the cases of each rule and names the first few files, to be printed at
start-up.
"""

from __future__ import annotations

import abc
import collections
import copy
import dataclasses
import difflib
import enum
import itertools
import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float, Float32, Int32, Int64, Integer, UInt8

from ipg_jax.text import shown
from ipg_jax.types import ImageId, Size

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Rule(enum.Enum):
    """What may be wrong with a record, and what is done about it."""

    UNREADABLE_IMAGE = "image missing or unreadable: image dropped"
    TOO_LARGE = "image of too many pixels: image dropped"
    UNKNOWN_RANGE = "image whose values have no known range: image dropped"
    UNREADABLE_ANNOTATION = "annotation file missing or unreadable: image dropped"
    AMBIGUOUS_ANNOTATION = "several XML files of one name, as a.xml and a.XML: image dropped"
    DUPLICATE_IMAGE = "image listed more than once: first kept, others dropped"
    SHARED_FILE = "image file listed under several ids: each kept, as an image with its own objects"
    UNFOLLOWED_LINK = (
        "link to a folder that is read already, or that leads round in a circle: not followed"
    )
    NAMED_FILE = "several image files of one name: the one that <filename> names used"
    AMBIGUOUS_FILE = (
        "several image files of one name, none or more of them named by <filename>: image dropped"
    )
    SIZE_MISSING = "image size not annotated as whole numbers above 0: size of the file used"
    SIZE_MISMATCH = "annotated image size is not the file's: size of the file used, boxes clipped"
    EXIF_APPLIED = (
        "EXIF orientation applied: the annotated size is that after it, or config.data.exif=apply"
    )
    EXIF_IGNORED = (
        "EXIF orientation ignored: the annotated size is that before it, config.data.exif=ignore, "
        "or TFDS"
    )
    EXIF_UNDECIDED = (
        "EXIF orientation applied, which the annotated size cannot decide: if boxes were drawn "
        "without it, set config.data.exif=ignore"
    )
    DEEP = "image of more than 8 bits a value: the upper 8 of the bits it was taken with"
    FLOATS = "image of floating-point values: 0 to 1 becomes 0 to 255, others cannot be read"
    EMPTY_IMAGE = "image without objects: kept"
    EMPTY_IMAGE_DROPPED = "image without objects: dropped as asked"
    ABSENT_CLASS = "class that the data lack: kept without objects"
    UNUSED_CLASS = "class without objects that config.data.class_names lacks: left out"
    ROOT_CATEGORY = "category without annotations that only groups others: dropped"
    UNKNOWN_IMAGE = "annotation of an image that is not listed: dropped"
    UNKNOWN_CATEGORY = "annotation of a category that is not listed: dropped"
    DUPLICATE_ANNOTATION = "annotation id used more than once: kept, ids are not used"
    MALFORMED_LINE = "line that is not a class with a box or a polygon: dropped"
    NOT_SHARES = (
        "box with values above 1, where YOLO has shares of the image's width and height: dropped"
    )
    DUPLICATE_OBJECT = "object listed more than once: first kept, others dropped"
    POLYGON_BOX = "box not annotated: that around the polygons used"
    UNREADABLE_FLAG = "flag that is neither 0 nor 1, true nor false, yes nor no: taken as 0"
    BAD_AREA = "area not above 0 or larger than the image: area of the box used"
    REPEATED_ELEMENT = "object with several names or boxes: the first of each used"
    NO_CLASS = "object without a class name: dropped"
    NOT_FINITE = "box is not four finite numbers: dropped"
    NO_EXTENT = "box of zero or negative size: dropped"
    OUTSIDE = "box outside the image: dropped"
    CLIPPED = "box partly outside the image: clipped"
    BELOW_A_PIXEL = (
        "box smaller than a pixel: kept (boxes are read in pixels, not in shares of the image)"
    )
    IGNORED = "crowd, ignored or difficult object: left out of the training loss"
    IGNORED_CLASS = "object of config.data.ignore_classes: region to ignore, of no class"


UNREADABLE_AREA = -1.0
"""Stands for an annotated area that is no number. `Rule.BAD_AREA` applies, as to all areas below 0:
the area of the box is used."""

LOST = {
    Rule.UNREADABLE_IMAGE,
    Rule.TOO_LARGE,
    Rule.UNKNOWN_RANGE,
    Rule.UNREADABLE_ANNOTATION,
    Rule.AMBIGUOUS_ANNOTATION,
    Rule.AMBIGUOUS_FILE,
}
"""The rules by which images are left out because they or their annotations are unusable."""


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
        """Counts one case of `rule` for each name; names are kept as `shown` writes them."""
        for name in map(shown, names):
            self.counts[rule] = self.counts.get(rule, 0) + 1
            examples = self.examples.setdefault(rule, [])
            if len(examples) < self.max_examples and name not in examples:
                examples.append(name)

    def count(self, rule: Rule) -> int:
        """Number of cases of `rule`."""
        return self.counts.get(rule, 0)

    @property
    def lost(self) -> int:
        """Number of images that were left out because they or their annotations are unusable."""
        return sum(self.count(rule) for rule in LOST)

    def lines(self, rules: Collection[Rule] = tuple(Rule)) -> list[str]:
        """One line for each of these rules that was needed, in the order of `Rule`."""
        return [
            f"{self.counts[rule]} x {rule.value} ({', '.join(self.examples[rule])}"
            f"{', ...' if self.counts[rule] > len(self.examples[rule]) else ''})"
            for rule in Rule
            if rule in self.counts and rule in rules
        ]

    def __str__(self) -> str:
        return "\n  ".join([f"{shown(self.origin)}:", *(self.lines() or ["nothing to report"])])


@dataclasses.dataclass(frozen=True)
class Objects:
    """The annotated objects of one image.

    Attributes:
      boxes: `xyxy` in pixels of the original image; pixel (0, 0) covers [0, 1) x [0, 1).
      labels: 0-based class indices; of a region to ignore, of no class, the number of classes.
      ignore: True for crowd and ignored (COCO) and difficult (VOC) objects, and for such regions.
      area: square pixels; of the segmentation where the data set gives one, else of the box.
    """

    boxes: Float32[np.ndarray, "m 4"]
    labels: Int32[np.ndarray, " m"]
    ignore: Bool[np.ndarray, " m"]
    area: Float32[np.ndarray, " m"]

    def of(self, rows: np.ndarray) -> Objects:
        """Returns some of the objects, by a mask or by indices."""
        return Objects(self.boxes[rows], self.labels[rows], self.ignore[rows], self.area[rows])

    @classmethod
    def concatenated(cls, parts: Sequence[Objects]) -> Objects:
        """Returns the objects of one or more parts, in their order."""
        return cls(
            boxes=np.concatenate([part.boxes for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            ignore=np.concatenate([part.ignore for part in parts]),
            area=np.concatenate([part.area for part in parts]),
        )


NO_OBJECTS = Objects(
    boxes=np.zeros((0, 4), np.float32),
    labels=np.zeros(0, np.int32),
    ignore=np.zeros(0, bool),
    area=np.zeros(0, np.float32),
)


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
      ignore: crowd, ignored and difficult objects.
      area: square pixels, not yet checked. `UNREADABLE_AREA` where it is no number; NaN where it is
        not annotated, so that the box's is used without a line in the report.
      keep: False for images that are left out together with their objects.
      drop_empty: whether to leave out images without objects.
      report: receives the counts.
      annotated: see `Records`; without annotations, empty images are nothing to report.

    Raises:
      ValueError: no image is left.
    """
    limits = np.tile(sizes[image_index][:, ::-1], 2)
    image_area = np.prod(sizes, axis=1, dtype=np.float64)[image_index]
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    finite = np.isfinite(boxes).all(axis=1)
    extended = _has_extent(boxes)
    inside = _has_extent(clipped)
    # Annotations rounded to hundredths, as COCO's are, may stick out by the rounding.
    moved = (np.abs(clipped - boxes) > 0.015).any(axis=1)

    below_a_pixel = (clipped[:, 2:] - clipped[:, :2] < 1).all(axis=1)

    readable = keep[image_index]
    usable = readable & finite & extended & inside
    bad_area = ~np.isnan(area) & ~((area > 0) & (area <= image_area))
    for rule, rows in (
        (Rule.NOT_FINITE, readable & ~finite),
        (Rule.NO_EXTENT, readable & finite & ~extended),
        (Rule.OUTSIDE, readable & finite & extended & ~inside),
        (Rule.CLIPPED, usable & moved),
        (Rule.BELOW_A_PIXEL, usable & below_a_pixel),
        (Rule.BAD_AREA, usable & bad_area),
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
        area=np.where((bad_area | np.isnan(area))[order], box_area, area[order]).astype(np.float32),
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
      tile: height and width of the tiles, if the images are tiles of larger ones (`TiledSource`);
        none is larger, and all are resized by the same factor.
    """

    tile: Size | None = None

    def __init__(
        self,
        *,
        name: str,
        class_names: Sequence[str],
        category_ids: Sequence[int | str],
        records: Records,
        report: DataReport,
    ):
        # The number of classes, which also is the background's label, is that of no class.
        unknown = (records.labels < 0) | (records.labels >= len(class_names) + records.ignore)
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
        self._unreadable: dict[int, str] = {}
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
            self.count_unreadable(index, error)
            return None

    def ignoring(self, names: Collection[str]) -> Source:
        """Returns the same images with some classes as regions to ignore, which are of no class.

        They are for what is annotated so that nobody learns or is judged by it, such as HIT-UAV's
        `DontCare` and VisDrone's "ignored regions". Training leaves them out, and a detection of
        any class inside one is no false positive.

        Args:
          names: the classes; the others keep their order.

        Raises:
          ValueError: there is no such class, or no other one.
        """
        if not names:
            return self
        for name in names:
            if name not in self.class_names:
                near = difflib.get_close_matches(name, self.class_names, 1, 0.5)
                hint = f"; did you mean {shown(near[0])}?" if near else ""
                raise ValueError(
                    f"{shown(self.name)} has no class {shown(name)} to ignore, only "
                    f"{_listed(self.class_names)}{hint}; () ignores none"
                )
        kept = [i for i, name in enumerate(self.class_names) if name not in names]
        if not kept:
            raise ValueError(f"{shown(self.name)} has no class but those to ignore")
        new_label = np.full(len(self.class_names) + 1, len(kept), np.int32)
        new_label[kept] = np.arange(len(kept))
        records = self.records
        labels = new_label[records.labels]
        other = copy.copy(self)
        other.report = copy.deepcopy(self.report)
        image = np.repeat(np.arange(len(records)), np.diff(records.offsets))
        ignored = image[(labels == len(kept)) & (records.labels < len(self.class_names))]
        other.report.add(Rule.IGNORED_CLASS, (records.file_names[i] for i in ignored.tolist()))
        other.records = dataclasses.replace(
            records, labels=labels, ignore=records.ignore | (labels == len(kept))
        )
        other.class_names = tuple(self.class_names[i] for i in kept)
        other.category_ids = tuple(self.category_ids[i] for i in kept)
        return other

    def count_unreadable(self, index: int, error: OSError | ValueError) -> None:
        """Counts image `index` in `unreadable`, and logs it the first time."""
        with self._lock:
            if index not in self._unreadable:
                line = f"{self.records.file_names[index]}: {error}"
                self._unreadable[index] = shown(line, limit=1000)
                logger.warning("%s: left out %s", self.name, self._unreadable[index])

    @property
    def expected_images(self) -> int:
        """Number of images if none was missing or unreadable: those in use and `report.lost`."""
        return len(self) + self.report.lost

    @property
    def unreadable(self) -> int:
        """Number of images of which `try_load_image` failed so far, in this process."""
        return len(self._unreadable)

    @property
    def failures(self) -> list[str]:
        """The name of each of these images and the reason, the newest last."""
        with self._lock:
            return list(self._unreadable.values())

    @property
    def whole_boxes(self) -> Float32[np.ndarray, "t 4"]:
        """The boxes of `records` as large as their objects are, where those are cut (tiles)."""
        return self.records.boxes

    def size(self, index: int) -> Size:
        """Height and width of image `index`."""
        height, width = self.records.sizes[index].tolist()
        return height, width


def resolve_classes(
    expected: Sequence[str],
    ids: Mapping[str, T],
    *,
    used: Collection[str],
    origin: str,
    report: DataReport,
) -> dict[str, T | int]:
    """The classes of a source, in the order of its labels, with the data's own id of each.

    A class that the data lack is no error: a small evaluation set may have no example of a rare
    one. It gets an id that no other class has. A class that the data list without an object of it
    is left out if it is not given.

    Args:
      expected: the class names given by the user; empty takes the data's.
      ids: the classes of the data and their ids, in their order.
      used: the classes of the data that have objects.
      origin: the file, for the message.
      report: receives the classes that the data lack, and those that are left out.

    Raises:
      ValueError: a name is given twice, or the data have objects of others; the message shows both
        lists.
    """
    expected = expected or list(ids)
    others = [name for name in ids if name not in set(expected)]
    if unexpected := sorted(set(others) & set(used)):
        raise ValueError(
            f"{shown(origin)} has classes beyond the given ones ({_listed(unexpected)}): give all "
            "of them in config.data.class_names, or in config.data.ignore_classes those whose "
            "objects are regions to ignore, or leave it out in training to take the data's.\n"
            f"given ({len(expected)}): {_listed(expected)}\n"
            f"in the data ({len(ids)}): {_listed(ids)}"
        )
    if repeated := [name for name, n in collections.Counter(expected).items() if n > 1]:
        raise ValueError(
            f"given more than once as a class name of {shown(origin)}: {_listed(repeated)}"
        )
    report.add(Rule.UNUSED_CLASS, others)
    report.add(Rule.ABSENT_CLASS, (name for name in expected if name not in ids))
    taken = set(map(str, ids.values()))  # by text, as ids are matched
    first = 1 + max((i for i in ids.values() if isinstance(i, int)), default=-1)
    unused = (i for i in itertools.count(first) if str(i) not in taken)
    return {name: ids[name] if name in ids else next(unused) for name in expected}


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(shown, names))
