"""The tables of a COCO JSON file, checked before anything is made of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ipg_jax.data.sources.base import UNREADABLE_AREA, DataReport, Rule
from ipg_jax.data.sources.values import described, flag, identity, number, side
from ipg_jax.files import read_regular
from ipg_jax.text import shown


class CocoImage(NamedTuple):
    """An entry of `images`.

    Attributes:
      id: as the file writes it, for results files.
      file_name: relative to the folder of the images, with `/`.
      size: height and width, 0 where not annotated.
    """

    id: int | str
    file_name: str
    size: tuple[int, int]


class CocoCategory(NamedTuple):
    """An entry of `categories`; `supercategory` is None if it is in none."""

    id: int | str
    name: str
    supercategory: str | None


class CocoFile(NamedTuple):
    """The tables of one file. The keys are `identity` of the ids, so that "1" finds 1.

    Attributes:
      images: by id; the first of each.
      repeated: file names of images whose id came before.
      categories: by id.
      annotations: entries of any keys and values; None if the file lists images only.
    """

    images: dict[str, CocoImage]
    repeated: list[str]
    categories: dict[str, CocoCategory]
    annotations: list[dict[str, Any]] | None


def read_coco(path: str) -> CocoFile:
    """Reads a file of COCO's detection format.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not JSON, or an entry has a field of a wrong type; the message names the
        file, the field, its value and what is expected.
    """
    content = _read_json(path)
    images: dict[str, CocoImage] = {}
    repeated = []
    for field, entry in _entries(content, "images", path):
        key, own_id = _id(entry, field, path)
        file_name = _file_name(entry)
        if not file_name:
            value = entry.get("file_name")
            raise _wrong(path, f"{field}.file_name", value, "the name of an image file")
        if key in images:
            repeated.append(file_name)
        else:
            size = (side(entry.get("height")), side(entry.get("width")))
            images[key] = CocoImage(own_id, file_name, size)

    categories: dict[str, CocoCategory] = {}
    for field, entry in _entries(content, "categories", path):
        key, own_id = _id(entry, field, path)
        name = identity(entry.get("name"))
        if name is None:
            raise _wrong(path, f"{field}.name", entry.get("name"), "the name of a class")
        if key in categories:
            raise ValueError(
                f"{shown(path)} lists the category id {shown(own_id)} more than once: "
                f"{shown(categories[key].name)} and {shown(name)}"
            )
        parent = entry.get("supercategory")
        categories[key] = CocoCategory(own_id, name, parent if isinstance(parent, str) else None)
    if not categories:
        raise ValueError(f"{shown(path)}: categories is empty; a detector needs at least one class")

    annotations = None
    if "annotations" in content:
        annotations = [entry for _, entry in _entries(content, "annotations", path)]
    return CocoFile(images, repeated, categories, annotations)


def xyxy(annotation: Mapping[str, Any]) -> tuple[tuple[float, ...], bool]:
    """The box of an entry of `annotations`.

    Returns:
      `x_min, y_min, x_max, y_max`, not finite where they are not four numbers, and whether they are
      those of the polygons of `segmentation`, for want of a `bbox`.
    """
    bbox = annotation.get("bbox")
    if bbox is None:
        polygons = _polygons(annotation.get("segmentation"))
        if polygons:
            points = np.array(polygons, np.float64).reshape(-1, 2)
            return (*points.min(axis=0).tolist(), *points.max(axis=0).tolist()), True
    if not isinstance(bbox, list) or len(bbox) != 4:
        return (float("nan"),) * 4, False
    x, y, width, height = map(number, bbox)
    return (x, y, x + width, y + height), False


def ignored(annotation: Mapping[str, Any], name: str, report: DataReport) -> bool:
    """Whether an object is a crowd or to be ignored.

    Args:
      annotation: an entry of `annotations`.
      name: of the image, for the report.
      report: receives flags that say neither yes nor no.
    """
    found = False
    for key in ("iscrowd", "ignore"):
        if key in annotation:
            value = flag(annotation[key])
            if value is None:
                report.add(Rule.UNREADABLE_FLAG, [f"{name}: {key}={described(annotation[key])}"])
            found |= bool(value)
    return found


def area(annotation: Mapping[str, Any]) -> float:
    """The area of an entry of `annotations` as `build_records` takes it."""
    if "area" not in annotation:
        return math.nan
    value = number(annotation["area"])
    return UNREADABLE_AREA if math.isnan(value) else value


def _polygons(segmentation: object) -> list[float]:
    """The coordinates `x, y, x, y, ...` of all polygons; empty if it is something else."""
    if not isinstance(segmentation, list):
        return []
    if not all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in segmentation):
        return []
    return [number(value) for polygon in segmentation for value in polygon]


def _file_name(image: Mapping[str, Any]) -> str:
    r"""The file of an entry of `images`, relative to the folder of the images; empty if none.

    Label Studio writes `images\a.png` on Windows. LVIS has no `file_name`: the last folder of its
    `coco_url` says which of COCO's folders the image is in, `train2017/000000000009.jpg`.
    """
    name = image.get("file_name")
    url = image.get("coco_url")
    if name is None and isinstance(url, str):
        return "/".join(url.split("/")[-2:])
    return name.replace("\\", "/") if isinstance(name, str) else ""


def _read_json(path: str) -> dict[str, Any]:
    try:
        content = json.loads(read_regular(path))
    except ValueError as error:
        raise ValueError(f"{shown(path)} is not a JSON file: {shown(error)}") from error
    except RecursionError as error:
        raise ValueError(f"{shown(path)} nests lists or objects too deeply") from error
    if not isinstance(content, dict) or "images" not in content or "categories" not in content:
        raise ValueError(
            f"{shown(path)} is not in COCO's detection format: it needs images and categories, and "
            "annotations to train with"
        )
    return content


def _entries(
    content: Mapping[str, Any], table: str, path: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a table, each after its name for messages."""
    entries = content[table]
    if not isinstance(entries, list):
        raise _wrong(path, table, entries, "a list")
    for position, entry in enumerate(entries):
        field = f"{table}[{position}]"
        if not isinstance(entry, dict):
            raise _wrong(path, field, entry, "an object")
        yield field, entry


def _id(entry: Mapping[str, Any], field: str, path: str) -> tuple[str, int | str]:
    """What an entry's id is compared by, and the id itself."""
    own_id = entry.get("id")
    key = identity(own_id)
    if key is None:
        raise _wrong(path, f"{field}.id", own_id, "a whole number or a text")
    return key, own_id if isinstance(own_id, str) else int(key)


def _wrong(path: str, field: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{shown(path)}: {field} is {described(value)}, expected {expected}")
