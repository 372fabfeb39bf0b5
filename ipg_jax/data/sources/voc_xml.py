"""The XML files of PASCAL VOC's layout, as VOC, labelImg, CVAT, Roboflow and others write them."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from ipg_jax.data.sources.text_files import REPLACEMENT, decode_text
from ipg_jax.data.sources.values import described, flag, number, side
from ipg_jax.files import read_regular
from ipg_jax.text import shown

_MAX_DEPTH = 32
"""Levels of elements; VOC's own files, whose persons have parts, have 5."""


class VocAnnotation(NamedTuple):
    """The contents of one XML file; the lists have an entry for each object that has a name.

    Attributes:
      file_name: the image file as `<filename>` names it, without folders; often wrong.
      size: height and width, 0 where not annotated.
      names: the class of each object.
      boxes: `xmin, ymin, xmax, ymax` as written, NaN where they are not four numbers.
      difficult: whether `<difficult>` says so of each object.
      unreadable_flags: for each object of which it says neither yes nor no, what it says, such as
        `difficult="Unspecified"`. These objects are taken for not difficult.
      unnamed: how many objects have no class name and were left out.
      repeated: how many have several names or boxes, of which the first of each counts.
    """

    file_name: str
    size: tuple[int, int]
    names: list[str]
    boxes: list[tuple[float, ...]]
    difficult: list[bool]
    unreadable_flags: list[str]
    unnamed: int
    repeated: int


def read_annotation(path: str) -> VocAnnotation:
    """Reads one XML file.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not an annotation in XML; the message names the file.
    """
    root = _parse(read_regular(path), path)
    names, boxes, difficult, unreadable = [], [], [], []
    objects = root.findall("object")
    for element in objects:
        name = (element.findtext("name") or "").strip()
        if not name:
            continue
        if REPLACEMENT in name:
            raise ValueError(
                f"{shown(path)}: the name {described(name)} is not UTF-8 text, nor does the file "
                "declare another encoding"
            )
        names.append(name)
        boxes.append(_box(element))
        text = element.findtext("difficult", default="0")
        value = flag(text)
        difficult.append(bool(value))
        if value is None:
            unreadable.append(f"difficult={described(text)}")
    return VocAnnotation(
        file_name=(root.findtext("filename") or "").strip().replace("\\", "/").split("/")[-1],
        size=(side(root.findtext("size/height")), side(root.findtext("size/width"))),
        names=names,
        boxes=boxes,
        difficult=difficult,
        unreadable_flags=unreadable,
        unnamed=len(objects) - len(names),
        repeated=sum(
            max(len(element.findall("name")), len(element.findall("bndbox"))) > 1
            for element in objects
        ),
    )


def half_open(corners: Float64[np.ndarray, "t 4"]) -> Float64[np.ndarray, "t 4"]:
    """Boxes of VOC's convention, first and last pixel counted from 1, to `xyxy` from 0, half-open.

    A box with `xmax <= xmin` or `ymax <= ymin` stays one without extent: read literally it would be
    a line of one pixel, but annotation tools write it for a click without a drag.
    """
    no_extent = (corners[:, 2:] <= corners[:, :2]).any(axis=1)
    boxes = corners - (1, 1, 0, 0)
    boxes[no_extent, 2:] = boxes[no_extent, :2]
    return boxes


def _parse(data: bytes, path: str) -> ElementTree.Element:
    """The root of a file that somebody else wrote, without namespaces.

    A document type could define entities, which grow without bound when they are expanded (and end
    some versions of expat in a segmentation fault), so no file with one gets to the parser.
    """
    text = decode_text(data, path, lenient=True).lstrip()
    if "<!DOCTYPE" in text:
        raise ValueError(f"{shown(path)} has a document type (<!DOCTYPE ...>): remove it")
    try:
        root = ElementTree.fromstring(text)  # of text: a declared encoding is no longer heeded
    except (ElementTree.ParseError, UnicodeError) as error:
        raise ValueError(f"{shown(path)} is not sound XML: {shown(error)}") from error
    level, depth = [root], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ValueError(f"{shown(path)} nests elements deeper than {_MAX_DEPTH} levels")
        for element in level:
            element.tag = element.tag.rpartition("}")[2]
        level = [child for element in level for child in element]
    if root.tag.lower() != "annotation":
        raise ValueError(
            f"{shown(path)}: the outermost element is <{shown(root.tag, limit=60)}>, not "
            "<annotation>"
        )
    return root


def _box(element: ElementTree.Element) -> tuple[float, ...]:
    sides = ("xmin", "ymin", "xmax", "ymax")
    corners = tuple(number(element.findtext(f"bndbox/{name}")) for name in sides)
    return (math.nan,) * 4 if any(map(math.isnan, corners)) else corners
