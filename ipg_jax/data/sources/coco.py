"""COCO's annotation format: one JSON file beside a folder of images.

Format: https://cocodataset.org/#format-data. Boxes are `[x, y, width, height]` from the image's
top left corner. The tables are read in `coco_json`.
"""

from __future__ import annotations

import collections
import math
import os
from collections.abc import Container, Mapping, Sequence

import numpy as np

from ipg_jax.data.sources.base import DataReport, Rule, build_records, resolve_classes
from ipg_jax.data.sources.coco_json import CocoCategory, area, ignored, read_coco, xyxy
from ipg_jax.data.sources.files import FileSource, Verify, verify_images
from ipg_jax.data.sources.part import WHOLE, Part
from ipg_jax.data.sources.values import described, identity, number
from ipg_jax.images import DEFAULT_OPTIONS, ImageOptions
from ipg_jax.text import shown


class CocoSource(FileSource):
    """Images and boxes from a COCO detection JSON file.

    Labels follow the order of the category ids, or of `class_names` where given. Objects with
    `iscrowd` or `ignore` become `ignore`; `area` is the annotated one, which evaluation goes by.
    Ids match as text, so that an object of image "1" is one of image 1; `image_ids` and
    `category_ids` are the file's own. A file without `annotations`, such as COCO's
    `image_info_test-dev2017.json`, lists images to detect objects in: `records.annotated` is False.
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
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
          images: the folder that the file names are relative to, local or `gs://`.
          annotations: the JSON file.
          class_names: the classes in the order of the labels; empty takes the file's own. The file
            may lack some of them.
          part: which of the images are read, by their ids.
          drop_empty: whether to leave out images without objects.
          verify: how thoroughly to check the images at start-up.
          threads: how many images are checked at a time; more help with remote stores.
          image_options: which image files are read and how.

        Raises:
          OSError: the JSON file cannot be read.
          ValueError: the file is not COCO's format, it has a category that is not in
            `class_names`, or no usable image is left.
        """
        origin = os.fspath(annotations)
        report = DataReport(origin)
        content = read_coco(origin)
        report.add(Rule.DUPLICATE_IMAGE, content.repeated)
        annotated = content.annotations is not None
        entries = content.annotations or []
        used = {identity(entry.get("category_id")) for entry in entries}
        categories = _without_root(content.categories, used, class_names, report)
        class_ids = resolve_classes(
            class_names,
            _ids_by_name(categories, origin),
            used={category.name for key, category in categories.items() if key in used},
            origin=origin,
            report=report,
        )
        label_of_name = {name: label for label, name in enumerate(class_ids)}
        label_of: dict[str | None, int] = {
            key: label_of_name[category.name]
            for key, category in categories.items()
            if category.name in label_of_name
        }

        images_of = {key: image for key, image in content.images.items() if part.has(key)}
        index_of: dict[str | None, int] = {key: i for i, key in enumerate(images_of)}
        file_names = [image.file_name for image in images_of.values()]
        image_index, labels, boxes, ignore, areas = [], [], [], [], []
        for entry in entries:
            key = identity(entry.get("image_id"))
            index = index_of.get(key)
            label = label_of.get(identity(entry.get("category_id")))
            if index is None:
                if key not in content.images:
                    image_id = described(entry.get("image_id"))
                    report.add(Rule.UNKNOWN_IMAGE, [f"image id {image_id}"])
                continue
            name = file_names[index]
            if label is None:
                category = described(entry.get("category_id"))
                report.add(Rule.UNKNOWN_CATEGORY, [f"{name}: category id {category}"])
                continue
            box, of_polygons = xyxy(entry)
            if of_polygons:
                report.add(Rule.POLYGON_BOX, [name])
            image_index.append(index)
            labels.append(label)
            boxes.append(box)
            ignore.append(ignored(entry, name, report))
            areas.append(area(entry))
        uses = collections.Counter(key for e in entries if (key := identity(e.get("id"))))
        repeated = [f"annotation id {key}" for key, n in uses.items() for _ in range(n - 1)]
        report.add(Rule.DUPLICATE_ANNOTATION, repeated)

        verified = verify_images(
            [os.path.join(os.fspath(images), name) for name in file_names],
            file_names,
            np.array([image.size for image in images_of.values()], np.int32).reshape(-1, 2),
            verify=verify,
            threads=threads,
            report=report,
            options=image_options,
        )
        records = build_records(
            image_ids=[image.id for image in images_of.values()],
            file_names=file_names,
            sizes=verified.sizes,
            image_index=np.array(image_index, np.int64),
            boxes=np.array(boxes, np.float64).reshape(-1, 4),
            labels=np.array(labels, np.int32),
            ignore=np.array(ignore, bool),
            area=np.array(areas, np.float64),
            keep=verified.usable,
            drop_empty=drop_empty and annotated,
            report=report,
            annotated=annotated,
        )
        super().__init__(
            image_options=image_options,
            unopened=verified.unopened,
            paths=[os.path.join(os.fspath(images), name) for name in records.file_names],
            name=os.path.basename(origin),
            class_names=list(class_ids),
            category_ids=list(class_ids.values()),
            records=records,
            report=report,
        )


def _without_root(
    categories: Mapping[str, CocoCategory],
    used: Container[str | None],
    class_names: Sequence[str],
    report: DataReport,
) -> dict[str, CocoCategory]:
    """Leaves out a category that no object has and that only is the supercategory of others.

    Roboflow's exports begin with one, named like the project and sometimes like a class. One that
    `class_names` asks for by a name of its own stays.
    """
    parents = {c.supercategory for c in categories.values()}
    names = collections.Counter(c.name for c in categories.values())
    kept = {}
    for key, category in categories.items():
        top = category.supercategory is None or category.supercategory.lower() in ("", "none")
        asked = names[category.name] == 1 and category.name in class_names
        if top and key not in used and category.name in parents and not asked:
            report.add(Rule.ROOT_CATEGORY, [f"{category.name} (id {category.id})"])
        else:
            kept[key] = category
    return kept


def _ids_by_name(categories: Mapping[str, CocoCategory], origin: str) -> dict[str, int | str]:
    """The ids of the categories by name, ascending: numbers first, then texts."""

    def place(category: CocoCategory) -> tuple[bool, float, str]:
        value = number(category.id)
        return math.isnan(value), 0.0 if math.isnan(value) else value, str(category.id)

    ids: dict[str, int | str] = {}
    for category in sorted(categories.values(), key=place):
        if category.name in ids:
            raise ValueError(
                f"{shown(origin)} lists the category name {shown(category.name)} more than once: "
                f"ids {shown(ids[category.name])} and {shown(category.id)}"
            )
        ids[category.name] = category.id
    return ids
