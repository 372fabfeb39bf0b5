"""TensorFlow Datasets: any prepared data set with images and an `objects` feature.

`objects` is a sequence of `bbox` (`BBoxFeature`, normalised to the stored raster), `label`
(`ClassLabel`) and, where the data set has them, `is_crowd`, `is_difficult` and `area`. Among TFDS's
own data sets these are `coco/2017`, `voc/2007` and `voc/2012`, for example.
"""

from __future__ import annotations

import concurrent.futures
import math
import os
import struct
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from jaxtyping import UInt8

from ipg_jax.data.images import Size, decode_image, read_image_size
from ipg_jax.data.sources.base import (
    DataReport,
    Rule,
    Source,
    build_records,
    check_class_names,
)
from ipg_jax.data.sources.files import Verify
from ipg_jax.types import ImageId


class TfdsSource(Source):
    """Images and boxes of one split of a prepared TFDS data set.

    TFDS keeps boxes beside the images, so building the source reads the split once. Images are then
    read by position in both file formats: `array_record` (local files) has an index of its own,
    for `tfrecord` (local or `gs://`) one is built. Crowd and difficult objects become `ignore`.
    TFDS does not apply EXIF orientation, nor is it applied here.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        class_names: Sequence[str] = (),
        drop_empty: bool = False,
        verify: Verify = "headers",
        threads: int = 16,
    ):
        """Reads the annotations and verifies the images.

        Args:
          name: as for `tfds.builder`, e.g. `coco/2017`.
          split: a split, sliced or not, e.g. `train[:80%]`.
          data_dir: where the data set was prepared; None is TFDS's default.
          class_names: the classes in the order of the labels; empty takes the data's.
          drop_empty: whether to leave out images without objects.
          verify: `decode` decodes every image; otherwise headers are read, which costs nothing
            since the records must be read for their boxes.
          threads: how many records are read at a time; more help with remote stores.

        Raises:
          FileNotFoundError: the data set is not prepared in `data_dir`.
          ValueError: the split or a feature is missing, the classes are not `class_names`, a file
            is damaged, or no usable image is left.
        """
        origin = f"{name} {split}"
        info = _prepared_info(name, data_dir)
        partial = tfds.decode.PartialDecoding(
            _wanted_features(info.features, origin), {"image": tfds.decode.SkipDecoding()}
        )
        self._features = partial.extract_features(info.features)
        self._decoders = partial.decoders
        self._examples = _open_split(info, split, threads)

        found = info.features["objects"]["label"].names
        if class_names:
            check_class_names(class_names, found, origin=origin)
        else:
            class_names = found
        label_of = np.array([list(class_names).index(class_name) for class_name in found])

        report = DataReport(origin)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            scanned = list(pool.map(lambda i: self._scan(i, verify), range(len(self._examples))))
        keep = np.ones(len(scanned), bool)
        seen: set[ImageId] = set()
        for i, example in enumerate(scanned):
            if example.size is None:
                keep[i] = False
                report.add(Rule.UNREADABLE_IMAGE, [example.file_name])
            elif example.image_id in seen:
                keep[i] = False
                report.add(Rule.DUPLICATE_IMAGE, [example.file_name])
            seen.add(example.image_id)

        records = build_records(
            image_ids=[example.image_id for example in scanned],
            file_names=[example.file_name for example in scanned],
            sizes=np.array([example.size or (0, 0) for example in scanned], np.int32),
            image_index=np.repeat(np.arange(len(scanned)), [len(e.labels) for e in scanned]),
            boxes=np.concatenate([example.boxes for example in scanned]),
            labels=label_of[np.concatenate([example.labels for example in scanned])],
            ignore=np.concatenate([example.ignore for example in scanned]),
            area=np.concatenate([example.area for example in scanned]),
            keep=keep,
            drop_empty=drop_empty,
            report=report,
        )
        position_of = {e.image_id: i for i, e in reversed(list(enumerate(scanned))) if keep[i]}
        self._positions = [position_of[image_id] for image_id in records.image_ids]
        super().__init__(
            name=origin,
            class_names=class_names,
            category_ids=[list(found).index(class_name) for class_name in class_names],
            records=records,
            report=report,
        )

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        return decode_image(self._parse(self._positions[index])["image"], self.size(index))

    def _parse(self, position: int) -> dict[str, Any]:
        """The wanted features of one example of the split, the image as the bytes of its file."""
        return self._features.deserialize_example_np(
            self._examples[position], decoders=self._decoders
        )

    def _scan(self, position: int, verify: Verify) -> _Scanned:
        example = self._parse(position)
        file_name = example.get("image/filename", b"").decode()
        image_id = example.get("image/id", file_name or position)
        if isinstance(image_id, bytes):
            image_id = image_id.decode()
        size: Size | None = None
        try:
            size = read_image_size(example["image"]).stored
            if verify == "decode":
                decode_image(example["image"], size)
        except ValueError:
            size = None
        objects = example["objects"]
        labels = np.asarray(objects["label"], np.int64)
        flags = np.zeros(len(labels), bool)
        for key in ("is_crowd", "is_difficult"):
            flags |= np.asarray(objects.get(key, flags), bool)
        ymin, xmin, ymax, xmax = np.asarray(objects["bbox"], np.float64).reshape(-1, 4).T
        height, width = size or (1, 1)
        return _Scanned(
            image_id=image_id if isinstance(image_id, str) else int(image_id),
            file_name=file_name or f"example {position}",
            size=size,
            boxes=np.stack([xmin * width, ymin * height, xmax * width, ymax * height], axis=1),
            labels=labels,
            ignore=flags,
            area=np.asarray(objects.get("area", [math.nan] * len(labels)), np.float64),
        )


class _Scanned(NamedTuple):
    """What is kept of one example; `size` is None if the image cannot be read."""

    image_id: ImageId
    file_name: str
    size: Size | None
    boxes: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    area: np.ndarray


@runtime_checkable
class _RandomAccess(Protocol):
    """Serialised examples by position; thread-safe."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> bytes: ...


class _TfRecords:
    """Random access to the records of a split stored as tfrecord.

    A record is its length (8 bytes, little endian), a checksum of the length (4 bytes), the data
    and a checksum of the data (4 bytes), so the lengths alone say where every record begins.
    """

    _HEADER = 12
    _FOOTER = 4

    def __init__(self, instructions: Sequence[Any], threads: int):
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            shards = list(pool.map(self._index, instructions))
        self._records = [record for shard in shards for record in shard]
        self._open = threading.local()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int) -> bytes:
        path, offset, length = self._records[position]
        # A file object has one position: every thread gets its own.
        files = self._open.__dict__
        if path not in files:
            files[path] = tf.io.gfile.GFile(path, "rb")
        files[path].seek(offset)
        return files[path].read(length)

    @classmethod
    def _index(cls, instruction: Any) -> list[tuple[str, int, int]]:
        """Path, offset and length of the records that one file gives to the split."""
        path = os.fspath(instruction.filename)
        records = []
        with tf.io.gfile.GFile(path, "rb") as file:
            end, offset = file.size(), 0
            for _ in range(instruction.skip + instruction.take):
                file.seek(offset)
                header = file.read(cls._HEADER)
                length = struct.unpack("<Q", header[:8])[0] if len(header) == cls._HEADER else end
                if offset + cls._HEADER + length + cls._FOOTER > end:
                    raise ValueError(f"{path} is damaged: the record at byte {offset} is cut off")
                records.append((path, offset + cls._HEADER, length))
                offset += cls._HEADER + length + cls._FOOTER
        return records[instruction.skip :]


def _prepared_info(name: str, data_dir: str | os.PathLike[str] | None) -> tfds.core.DatasetInfo:
    """The description of a data set on disk.

    Raises:
      FileNotFoundError: it is not prepared.
    """
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        prepared = builder.is_prepared()
    except tfds.core.DatasetNotFoundError:
        prepared = False
    if not prepared:
        where = "the default data_dir" if data_dir is None else os.fspath(data_dir)
        raise FileNotFoundError(
            f"the TFDS data set {name} is not prepared in {where}. Prepare it with "
            f"`tfds.builder({name!r}, data_dir=...).download_and_prepare("
            'file_format="array_record")`, or name the data_dir that holds it.'
        )
    return builder.info


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


def _open_split(info: tfds.core.DatasetInfo, split: str, threads: int) -> _RandomAccess:
    instructions = info.splits[split].file_instructions
    match info.file_format.value:
        case "array_record":
            return ArrayRecordDataSource(instructions)
        case "tfrecord":
            return _TfRecords(instructions, threads)
        case other:
            raise ValueError(
                f"{info.full_name} is stored as {other}; array_record and tfrecord can be read"
            )
