"""TensorFlow Datasets: any prepared data set with images and an `objects` feature.

`objects` is a sequence of `bbox` (`BBoxFeature`, normalised to the stored raster), `label`
(`ClassLabel`) and, where the data set has them, `is_crowd`, `is_difficult` and `area`. Among TFDS's
own data sets these are `coco/2017`, `voc/2007` and `voc/2012`, for example.

TFDS divides the corners that a data set annotates by the size of the image and does not change
them otherwise. VOC's are its first and last pixel, counted from 1, so the boxes of `ONE_BASED` are
turned into half-open ones here, as `VocSource` does with the same XML files.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import UInt8

from ipg_jax.data.quiet_tensorflow import tf
from ipg_jax.data.sources.base import LOST, DataReport, Rule, Source, build_records, resolve_classes
from ipg_jax.data.sources.files import Verify, header_rules, unusable
from ipg_jax.data.sources.tfds_records import open_split
from ipg_jax.data.sources.values import described, flag
from ipg_jax.data.sources.voc_xml import half_open
from ipg_jax.images import (
    DEFAULT_OPTIONS,
    ImageOptions,
    decode_image,
    read_image_header,
)
from ipg_jax.text import shown
from ipg_jax.types import ImageId, Size

ONE_BASED = ("bccd", "voc")
"""TFDS's builders whose `bbox` are VOC's corners divided by the size: they call
`BBox(ymin / height, xmin / width, ymax / height, xmax / width)` with the numbers of the XML file
(TFDS 4.9.10, `object_detection/voc.py` and `datasets/bccd/bccd_dataset_builder.py`)."""


class TfdsSource(Source):
    """Images and boxes of one split of a prepared TFDS data set.

    TFDS keeps boxes beside the images, so building the source reads the split once. Images are then
    read by position in both file formats: `array_record` (local files) has an index of its own,
    for `tfrecord` (local or `gs://`) one is built. Crowd and difficult objects become `ignore`.
    TFDS does not apply EXIF orientation, and its boxes come without the annotated size: it is
    applied only where the image options ask for it (`apply`).
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        one_based: bool | None = None,
        class_names: Sequence[str] = (),
        drop_empty: bool = False,
        verify: Verify = "headers",
        threads: int = 16,
        image_options: ImageOptions = DEFAULT_OPTIONS,
    ):
        """Reads the annotations and verifies the images.

        Args:
          name: as for `tfds.builder`, e.g. `coco/2017`.
          split: a split, sliced or not, e.g. `train[:80%]`.
          data_dir: where the data set was prepared; None is TFDS's default.
          one_based: whether `bbox` holds VOC's corners, first and last pixel counted from 1; None
            is True for the builders `ONE_BASED`.
          class_names: the classes in the order of the labels; empty takes the data's. The data may
            lack some of them.
          drop_empty: whether to leave out images without objects.
          verify: `decode` decodes every image; otherwise headers are read, which costs nothing
            since the records must be read for their boxes.
          threads: how many records are read at a time; more help with remote stores.
          image_options: which images are read and how.

        Raises:
          FileNotFoundError: the data set is not prepared in `data_dir`.
          OSError: a file cannot be read.
          ValueError: the split or a feature is missing, the data have a class that is not in
            `class_names`, a file is damaged beyond single examples, or no usable image is left.
        """
        origin = f"{name} {split}"
        info = _prepared_info(name, data_dir)
        partial = tfds.decode.PartialDecoding(
            _wanted_features(info.features, origin), {"image": tfds.decode.SkipDecoding()}
        )
        self._features = partial.extract_features(info.features)
        self._decoders = partial.decoders
        self._origin = origin
        self._one_based = info.name in ONE_BASED if one_based is None else one_based
        exif = "ignore" if image_options.exif == "auto" else image_options.exif
        self._options = dataclasses.replace(image_options, exif=exif)
        self._examples = open_split(info, split, threads)

        report = DataReport(origin)
        found = info.features["objects"]["label"].names
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            results = pool.map(lambda i: self._try_scan(i, verify), range(len(self._examples)))
        scanned = []
        keep = []
        seen: set[ImageId] = set()
        for result in results:
            if isinstance(result, ValueError):
                report.add(Rule.UNREADABLE_ANNOTATION, [str(result)])
                continue
            usable = not result.found.keys() & LOST
            duplicate = usable and result.image_id in seen
            keep.append(usable and not duplicate)
            for rule, text in result.found.items():
                report.add(rule, [text])
            if duplicate:
                report.add(Rule.DUPLICATE_IMAGE, [result.file_name])
            if usable:
                seen.add(result.image_id)
            report.add(Rule.UNREADABLE_FLAG, result.unreadable_flags)
            known = (result.labels >= 0) & (result.labels < len(found))
            unknown = (f"{result.file_name}: label {k}" for k in result.labels[~known])
            report.add(Rule.UNKNOWN_CATEGORY, unknown)
            scanned.append(result.of(known))

        classes = resolve_classes(
            class_names,
            {name: i for i, name in enumerate(found)},
            used={found[k] for example in scanned for k in example.labels},
            origin=origin,
            report=report,
        )
        label_of_name = {name: label for label, name in enumerate(classes)}
        label_of = np.array([label_of_name.get(name, -1) for name in found], np.int32)
        records = build_records(
            image_ids=[example.image_id for example in scanned],
            file_names=[example.file_name for example in scanned],
            sizes=np.array([e.size for e in scanned], np.int32).reshape(-1, 2),
            image_index=np.repeat(np.arange(len(scanned)), [len(e.labels) for e in scanned]),
            boxes=np.concatenate([np.zeros((0, 4)), *(e.boxes for e in scanned)]),
            labels=label_of[np.concatenate([np.zeros(0, int), *(e.labels for e in scanned)])],
            ignore=np.concatenate([np.zeros(0, bool), *(e.ignore for e in scanned)]),
            area=np.concatenate([np.zeros(0), *(e.area for e in scanned)]),
            keep=np.array(keep, bool),
            drop_empty=drop_empty,
            report=report,
        )
        position_of = {e.image_id: e.position for e, k in zip(scanned, keep, strict=True) if k}
        self._positions = [position_of[image_id] for image_id in records.image_ids]
        super().__init__(
            name=origin,
            class_names=list(classes),
            category_ids=list(classes.values()),
            records=records,
            report=report,
        )

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        data = self._parse(self._positions[index])["image"]
        return decode_image(data, self.size(index), self._options)

    def _parse(self, position: int) -> dict[str, Any]:
        """The wanted features of one example of the split, the image as the bytes of its file.

        Raises:
          OSError: the record cannot be read.
          ValueError: the record is damaged.
        """
        try:
            example = self._features.deserialize_example_np(
                self._examples[position], decoders=self._decoders
            )
        except tf.errors.OpError as error:
            raise OSError(f"{shown(self._origin)}: {shown(error.message)}") from error
        except OSError:
            raise
        # Protocol buffers, TFDS and array_record raise about any exception on damaged data.
        except Exception as error:
            raise self._damaged(position, str(error)) from error
        if lacking := [key for key, value in example.items() if value is None]:
            raise self._damaged(position, f"it lacks {', '.join(lacking)}")
        return example

    def _damaged(self, position: int, reason: str) -> ValueError:
        return ValueError(
            f"example {position} of {shown(self._origin)} is damaged: {shown(reason)}"
        )

    def _try_scan(self, position: int, verify: Verify) -> _Scanned | ValueError:
        """What is kept of one example, or why it cannot be used."""
        try:
            return self._scan(position, verify)
        except ValueError as error:
            return error

    def _scan(self, position: int, verify: Verify) -> _Scanned:
        example = self._parse(position)
        file_name = _text(example.get("image/filename", b""))
        image_id = example.get("image/id", file_name or position)
        if isinstance(image_id, bytes):
            image_id = _text(image_id)
        file_name = file_name or f"example {position}"
        size = 1, 1
        try:
            header = read_image_header(example["image"], self._options)
            size = self._options.size(header, None)
            if verify == "decode":
                decode_image(example["image"], size, self._options)
            found = dict.fromkeys(header_rules(header, size, self._options), file_name)
        except ValueError as error:
            found = {unusable(error): f"{file_name}: {error}"}
        objects = example["objects"]
        labels = np.asarray(objects["label"], np.int64)
        for key, values in objects.items():
            expected = (len(labels), 4) if key == "bbox" else (len(labels),)
            if np.shape(values) != expected and np.size(values) + len(labels) > 0:
                raise self._damaged(
                    position, f"objects/{key} has the shape {np.shape(values)}, not {expected}"
                )
        ignore = np.zeros(len(labels), bool)
        unreadable = []
        for key in ("is_crowd", "is_difficult"):
            for i, value in enumerate(np.asarray(objects.get(key, ignore)).tolist()):
                value = _text(value) if isinstance(value, bytes) else value
                known = flag(value)
                ignore[i] |= bool(known)
                if known is None:
                    unreadable.append(f"{file_name}: {key}={described(value)}")
        corners = np.asarray(objects["bbox"], np.float64).reshape(-1, 4)
        ymin, xmin, ymax, xmax = corners.T
        height, width = size
        boxes = np.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=1)
        return _Scanned(
            position=position,
            image_id=image_id if isinstance(image_id, str) else int(image_id),
            file_name=file_name,
            size=size,
            found=found,
            boxes=half_open(boxes) if self._one_based else boxes,
            labels=labels,
            ignore=ignore,
            area=np.asarray(objects.get("area", np.full(len(labels), math.nan)), np.float64),
            unreadable_flags=unreadable,
        )


class _Scanned(NamedTuple):
    """What is kept of one example.

    Attributes:
      position: in the split.
      found: the rules that the image falls under, with what the report says.
      unreadable_flags: for each flag of an object that says neither yes nor no, what it says. It is
        taken for no.
    """

    position: int
    image_id: ImageId
    file_name: str
    size: Size
    found: dict[Rule, str]
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    area: np.ndarray
    unreadable_flags: list[str]

    def of(self, rows: np.ndarray) -> _Scanned:
        """The example with some of its objects."""
        return self._replace(
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            ignore=self.ignore[rows],
            area=self.area[rows],
        )


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _prepared_info(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetInfo:
    """The description of a data set on disk.

    Raises:
      FileNotFoundError: it is not prepared.
      ValueError: it is damaged.
    """
    where = "the default data_dir" if data_dir is None else shown(os.fspath(data_dir))
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        info = builder.info if builder.is_prepared() else None
    except tfds.core.DatasetNotFoundError:
        info = None
    # Damaged descriptions (`dataset_info.json`, `features.json`) make TFDS raise about anything.
    except Exception as error:
        raise ValueError(
            f"the TFDS data set {shown(name)} in {where} cannot be opened: {shown(error)}"
        ) from error
    if info is None:
        raise FileNotFoundError(
            f"the TFDS data set {shown(name)} is not prepared in {where}. Prepare it with "
            f"`tfds.builder({name!r}, data_dir=...).download_and_prepare("
            'file_format="array_record")`, or name the folder that holds it in config.data.data_dir'
        )
    return info


def _wanted_features(features: Any, origin: str) -> dict[str, Any]:
    """Those of the features that a source uses, in the form that `PartialDecoding` takes."""
    for key in ("image", "objects"):
        if key not in features:
            raise ValueError(f"{origin} has no feature {key!r}, only {', '.join(features)}")
    objects = features["objects"]
    for key in ("bbox", "label"):
        if key not in objects:
            raise ValueError(
                f"objects of {origin} have no {key!r}, only {', '.join(objects.keys())}"
            )
    if not isinstance(objects["label"], tfds.features.ClassLabel):
        raise ValueError(f"the labels of {origin} are not a ClassLabel, so they have no names")
    optional = ("is_crowd", "is_difficult", "area")
    return {
        "image": True,
        **{key: True for key in ("image/id", "image/filename") if key in features},
        "objects": {
            "bbox": True,
            "label": True,
            **{key: True for key in optional if key in objects},
        },
    }
