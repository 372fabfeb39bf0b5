"""Data sets of the package `datasets` (Hugging Face) with images and their objects.

The layout is that of object detection there: a column `image` (`Image`) and a column `objects` of
which each has `bbox` (COCO's `x, y, width, height` in pixels) and `category` (`ClassLabel`), and
where the data set has them COCO's `area`, `iscrowd`, `ignore` and `segmentation`. A column
`image_id` names the images, and `width` and `height` are their annotated sizes.
"""

from __future__ import annotations

import concurrent.futures
import functools
import glob
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from ipg_jax.data.sources.base import LOST, DataReport, Rule, Source, build_records, resolve_classes
from ipg_jax.data.sources.coco_json import area, ignored, xyxy
from ipg_jax.data.sources.files import Verify, check_image
from ipg_jax.data.sources.part import WHOLE, Part
from ipg_jax.data.sources.values import described, identity, side
from ipg_jax.files import read_regular
from ipg_jax.images import DEFAULT_OPTIONS, ImageOptions, decode_image
from ipg_jax.text import shown
from ipg_jax.types import ImageId, Size


class HuggingFaceSource(Source):
    """Images and boxes of one split of a data set that was saved to a disk, or of parquet files.

    Images are named by `image_id`, or by their position where there is no such column. They are
    read by position from the files, which are mapped into memory.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] = (),
        part: Part = WHOLE,
        drop_empty: bool = False,
        verify: Verify = "headers",
        threads: int = 16,
        image_options: ImageOptions = DEFAULT_OPTIONS,
    ):
        """Reads the annotations and verifies the images.

        Args:
          root: what `save_to_disk` wrote, a folder of parquet files, or one such file; local.
          split: a split of it (`train`), or `.` for all of a data set without splits.
          class_names: the classes in the order of the labels; empty takes the data's.
          part: which of the images are read, by their ids.
          drop_empty: whether to leave out images without objects.
          verify: `decode` decodes every image; otherwise headers are read.
          threads: how many images are checked at a time.
          image_options: which images are read and how.

        Raises:
          ImportError: the package `datasets` is not installed.
          OSError: there is no such split.
          ValueError: a column is missing or of another type, the data have a class that is not in
            `class_names`, or no usable image is left.
        """
        root = os.fspath(root)
        origin = os.path.normpath(os.path.join(root, split))
        dataset, listed = _open(root, split)
        self._images = dataset.select_columns("image")
        known = ("image", "objects", "width", "height")
        self._rows = dataset.select_columns([name for name in known if name in dataset.features])
        self._options = image_options
        self._origin = origin

        report = DataReport(origin)
        position_of: dict[ImageId, int] = {}
        for position, image_id in enumerate(_image_ids(dataset)):
            if not part.has(str(image_id)):
                continue
            if image_id in position_of:
                report.add(Rule.DUPLICATE_IMAGE, [str(image_id)])
            position_of.setdefault(image_id, position)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            scan = functools.partial(self._scan, verify=verify)
            rows = list(pool.map(scan, position_of.values()))

        keep, numbers, image_index, boxes, is_ignored, areas = [], [], [], [], [], []
        for index, row in enumerate(rows):
            for rule, text in row.found.items():
                report.add(rule, [text])
            keep.append(not row.found.keys() & LOST)
            for entry in row.objects if keep[-1] else ():
                number = entry.get("category")
                if number is None or not 0 <= number < len(listed):
                    report.add(Rule.UNKNOWN_CATEGORY, [f"{row.name}: {described(number)}"])
                    continue
                box, of_polygons = xyxy(entry)
                report.add(Rule.POLYGON_BOX, [row.name] * of_polygons)
                numbers.append(number)
                image_index.append(index)
                boxes.append(box)
                is_ignored.append(ignored(entry, row.name, report))
                areas.append(area(entry))
        classes = resolve_classes(
            class_names,
            {name: i for i, name in enumerate(listed)},
            used={listed[number] for number in numbers},
            origin=origin,
            report=report,
        )
        label_of = {name: label for label, name in enumerate(classes)}
        records = build_records(
            image_ids=list(position_of),
            file_names=[row.name for row in rows],
            sizes=np.array([row.size for row in rows], np.int32).reshape(-1, 2),
            image_index=np.array(image_index, np.int64),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            labels=np.array([label_of[listed[number]] for number in numbers], np.int32),
            ignore=np.array(is_ignored, bool),
            area=np.array(areas, np.float64),
            keep=np.array(keep, bool),
            drop_empty=drop_empty,
            report=report,
        )
        self._positions = [position_of[image_id] for image_id in records.image_ids]
        super().__init__(
            name=f"{os.path.basename(os.path.abspath(root))}/{split}",
            class_names=list(classes),
            category_ids=list(classes.values()),
            records=records,
            report=report,
        )

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        image = self._row(self._images, self._positions[index])["image"]
        data = _source(image)
        data = data if isinstance(data, bytes) else read_regular(data)
        return decode_image(data, self.size(index), self._options)

    def _row(self, rows: Any, position: int) -> dict[str, Any]:
        try:
            return rows[position]
        # Arrow raises about anything on damaged files.
        except Exception as error:
            raise ValueError(
                f"example {position} of {shown(self._origin)} is damaged: {shown(error)}"
            ) from error

    def _scan(self, position: int, verify: Verify) -> _Row:
        """What is kept of one example."""
        name = f"example {position}"
        try:
            row = self._row(self._rows, position)
            objects = _objects(row["objects"])
        except ValueError as error:
            return _Row(name, (1, 1), {Rule.UNREADABLE_ANNOTATION: f"{name}: {error}"}, [])
        image = row["image"] or {}
        name = os.path.basename(image.get("path") or "") or name
        annotated = side(row.get("height")), side(row.get("width"))
        try:
            source = _source(image)
        except ValueError as error:
            return _Row(name, (1, 1), {Rule.UNREADABLE_IMAGE: f"{name}: {error}"}, [])
        size, found = check_image(source, name, annotated, verify=verify, options=self._options)
        return _Row(name, size, found, objects)


class _Row(NamedTuple):
    """What is kept of one example.

    Attributes:
      name: of the image's file.
      size: height and width.
      found: the rules that the image falls under, with what the report says.
      objects: as annotations of COCO's format, the category as its number.
    """

    name: str
    size: Size
    found: dict[Rule, str]
    objects: list[dict[str, Any]]


def _source(image: Mapping[str, Any]) -> bytes | str:
    """The contents of an image's file, or its path."""
    source = image.get("bytes") or image.get("path")
    if not source:
        raise ValueError("the example has no image")
    return source


def _objects(value: Any) -> list[dict[str, Any]]:
    """The objects of an example, a list of them or a list for each of their fields, without nulls.

    All rows of a table have the same fields, so null is what others leave out.
    """
    if value is None:
        return []
    entries = value
    if isinstance(value, Mapping):
        columns = {key: values for key, values in value.items() if values is not None}
        lengths = {key: len(values) for key, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"its objects have fields of different lengths ({lengths})")
        rows = zip(*columns.values(), strict=True)
        entries = [dict(zip(columns, row, strict=True)) for row in rows]
    return [{k: v for k, v in (entry or {}).items() if v is not None} for entry in entries]


def _image_ids(dataset: Any) -> list[ImageId]:
    """The id of each example; where it has none, its position."""
    positions = range(len(dataset))
    if "image_id" not in dataset.column_names:
        return list(positions)
    values = dataset.select_columns("image_id")[:]["image_id"]
    keys = map(identity, values)
    return [
        f"example {position}" if key is None else value if isinstance(value, str) else int(key)
        for position, value, key in zip(positions, values, keys, strict=True)
    ]


def _open(root: str, split: str) -> tuple[Any, list[str]]:
    """The rows of a split, with images as they are stored, and the names of its classes."""
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            "config.data.source=huggingface needs the package datasets: "
            "pip install 'ipg-jax[huggingface]'"
        ) from error
    folder = os.path.normpath(os.path.join(root, split))
    files = _parquet_files(root, split)
    try:
        if os.path.isfile(os.path.join(folder, "state.json")):
            dataset = datasets.load_from_disk(folder)
        elif files:
            dataset = datasets.Dataset.from_parquet(files)
        else:
            raise FileNotFoundError(
                f"save_to_disk of datasets wrote nothing to {shown(folder)}, and there are no "
                f"parquet files {shown(split)}-*.parquet in {shown(root)}. Of data without splits, "
                "the split . is all"
            )
    except OSError:
        raise
    # Damaged descriptions and tables make it raise about anything.
    except Exception as error:
        raise ValueError(f"{shown(folder)} cannot be opened: {shown(error)}") from error
    features = dataset.features
    if not isinstance(features.get("image"), datasets.Image) or "objects" not in features:
        raise ValueError(
            f"{shown(folder)} needs the columns image, of images, and objects; it has "
            f"{shown(', '.join(f'{name} ({kind})' for name, kind in features.items()))}"
        )
    fields = _element(features["objects"])
    for field in ("bbox", "category"):
        if not isinstance(fields, Mapping) or field not in fields:
            raise ValueError(f"objects of {shown(folder)} have no {field}, only {shown(fields)}")
    label = fields["category"]
    while not isinstance(label, datasets.ClassLabel):
        if (inner := _element(label)) is label:
            raise ValueError(
                f"objects.category of {shown(folder)} is no ClassLabel, so it has no names: cast it"
            )
        label = inner
    return dataset.cast_column("image", datasets.Image(decode=False)), list(label.names)


def _element(feature: Any) -> Any:
    """What a list has as its elements; the feature itself if it is none."""
    return feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)


def _parquet_files(root: str, split: str) -> list[str]:
    """The parquet files of a split, as repositories of data sets have them."""
    if os.path.isfile(root):
        return [root] if split == "." else []
    pattern = "*.parquet" if split == "." else f"{glob.escape(split)}[-.]*parquet"
    folders = [glob.escape(os.path.join(root, name)) for name in ("", "data")]
    return sorted(f for folder in folders for f in glob.glob(os.path.join(folder, pattern)))
