"""Small TFDS data sets, made by the tests themselves."""

import struct

import google_crc32c
import numpy as np
import tensorflow_datasets as tfds
from made_files import random_image

SIZES = [(20 + 2 * i, 30) for i in range(7)]


def examples(split):
    """Image `i` has `i % 3` objects; the second object of image 5 is a crowd."""
    for i, (height, width) in enumerate(SIZES[: 7 if split == "train" else 2]):
        boxes = [(0.1, 0.2, 0.5, 0.6), (0.5, 0.5, 1.0, 1.0)][: i % 3]
        yield (
            i,
            {
                "image": random_image(height, width, seed=i),
                "image/id": 100 + i,
                "image/filename": f"{i}.png",
                "objects": [
                    {
                        "bbox": tfds.features.BBox(*box),
                        "label": j,
                        "is_crowd": i == 5 and j == 1,
                        "area": 17,
                    }
                    for j, box in enumerate(boxes)
                ],
            },
        )


def features(with_names=True):
    label = tfds.features.ClassLabel(names=["cat", "dog"]) if with_names else np.int64
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "image/id": np.int64,
            "image/filename": tfds.features.Text(),
            "objects": tfds.features.Sequence(
                {
                    "bbox": tfds.features.BBoxFeature(),
                    "label": label,
                    "is_crowd": np.bool_,
                    "area": np.int64,
                }
            ),
        }
    )


def store(name, data_dir, found, train, file_format="tfrecord"):
    """A data set with one split, `train`."""
    return tfds.dataset_builders.store_as_tfds_dataset(
        name,
        "1.0.0",
        found,
        {"train": train},
        data_dir=data_dir,
        file_format=file_format,
        disable_shuffling=True,
    )


def masked_crc(data):
    """The checksum of a tfrecord file."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def rewritten(data, edit):
    """A tfrecord file whose records went through `edit`, with the checksums they then need."""
    records, start = [], 0
    while start < len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        record = edit(len(records), data[start + 12 : start + 12 + length])
        header = struct.pack("<Q", len(record))
        records.append(header + masked_crc(header) + record + masked_crc(record))
        start += 16 + length
    return b"".join(records)
