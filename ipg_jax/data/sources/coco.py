"""COCO's annotation format: one JSON file beside a folder of images.

Format: https://cocodataset.org/#format-data. Boxes are `[x, y, width, height]` from the image's
top left corner.
"""

from __future__ import annotations

import collections
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ipg_jax.data.images import read_file
from ipg_jax.data.sources.base import DataReport, Rule, build_records, check_class_names
from ipg_jax.data.sources.files import FileSource, Verify, verify_images


class CocoSource(FileSource):
    """Images and boxes from a COCO detection JSON file.

    Labels follow the order of the category ids, or of `class_names` where given. Objects with
    `iscrowd` become `ignore`; `area` is the annotated one, which evaluation goes by. A file
    without `annotations`, such as COCO's `image_info_test-dev2017.json`, lists images to detect
    objects in: `records.annotated` is False.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        *,
        class_names: Sequence[str] = (),
        drop_empty: bool = False,
        verify: Verify = "headers",
        threads: int = 16,
    ):
        """Reads the annotations and verifies the images.

        Args:
          images: the folder that the file names are relative to, local or `gs://`.
          annotations: the JSON file.
          class_names: the classes in the order of the labels; empty takes the file's own.
          drop_empty: whether to leave out images without objects.
          verify: how thoroughly to check the images at start-up.
          threads: how many images are checked at a time; more help with remote stores.

        Raises:
          OSError: the JSON file cannot be read.
          ValueError: the file is not COCO's format, its categories are not `class_names`, or
            no usable image is left.
        """
        origin = os.fspath(annotations)
        report = DataReport(origin)
        content = _read_json(origin)

        categories = {c["id"]: c["name"] for c in content["categories"]}
        names = list(categories.values())
        if len(categories) < len(content["categories"]) or len(set(names)) < len(names):
            raise ValueError(f"{origin} lists a category id or a category name more than once")
        if class_names:
            check_class_names(class_names, names, origin=origin)
            ids = {name: id_ for id_, name in categories.items()}
            category_ids = [ids[name] for name in class_names]
        else:
            category_ids = sorted(categories)
        label_of = {id_: label for label, id_ in enumerate(category_ids)}

        annotated = "annotations" in content
        index_of: dict[Any, int] = {}
        file_names: list[str] = []
        sizes: list[tuple[int, int]] = []
        for image in content["images"]:
            if image["id"] in index_of:
                report.add(Rule.DUPLICATE_IMAGE, [image["file_name"]])
                continue
            index_of[image["id"]] = len(index_of)
            file_names.append(image["file_name"])
            sizes.append((int(image.get("height") or 0), int(image.get("width") or 0)))

        objects = []
        for annotation in content.get("annotations", []):
            if annotation.get("image_id") not in index_of:
                report.add(Rule.UNKNOWN_IMAGE, [f"image id {annotation.get('image_id')}"])
            elif annotation.get("category_id") not in label_of:
                index = index_of[annotation["image_id"]]
                report.add(Rule.UNKNOWN_CATEGORY, [file_names[index]])
            else:
                objects.append(annotation)
        uses = collections.Counter(a["id"] for a in objects if "id" in a)
        repeated = [f"annotation id {id_}" for id_, n in uses.items() for _ in range(n - 1)]
        report.add(Rule.DUPLICATE_ANNOTATION, repeated)

        paths = [os.path.join(os.fspath(images), name) for name in file_names]
        true_sizes, readable = verify_images(
            paths,
            np.array(sizes, np.int32).reshape(-1, 2),
            verify=verify,
            threads=threads,
            report=report,
        )
        records = build_records(
            image_ids=list(index_of),
            file_names=file_names,
            sizes=true_sizes,
            image_index=np.array([index_of[a["image_id"]] for a in objects], np.int64),
            boxes=np.array([_xyxy(a) for a in objects], np.float64).reshape(-1, 4),
            labels=np.array([label_of[a["category_id"]] for a in objects], np.int32),
            ignore=np.array([bool(a.get("iscrowd", 0)) for a in objects], bool),
            area=np.array([a.get("area", math.nan) for a in objects], np.float64),
            keep=readable,
            drop_empty=drop_empty and annotated,
            report=report,
            annotated=annotated,
        )
        super().__init__(
            paths=[os.path.join(os.fspath(images), name) for name in records.file_names],
            name=os.path.basename(origin),
            class_names=[categories[id_] for id_ in category_ids],
            category_ids=category_ids,
            records=records,
            report=report,
        )


def _read_json(path: str) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(read_file(path))
    except ValueError as error:
        raise ValueError(f"{path} is not a JSON file: {error}") from error
    keys = ("images", "categories")
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise ValueError(
            f"{path} is not in COCO's detection format: it needs {' and '.join(keys)}, and "
            "annotations to train with"
        )
    for table, fields in (("images", {"id", "file_name"}), ("categories", {"id", "name"})):
        if any(not fields <= entry.keys() for entry in content[table]):
            raise ValueError(f"{path}: every entry of {table} needs {' and '.join(sorted(fields))}")
    return content


def _xyxy(annotation: Mapping[str, Any]) -> tuple[float, float, float, float]:
    """Corners of the annotated box, NaN where it is not four numbers."""
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        return math.nan, math.nan, math.nan, math.nan
    return x, y, x + width, y + height
