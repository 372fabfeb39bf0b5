"""Predictions as the label files of other tools: YOLO's, PASCAL VOC's and labelme's."""

from __future__ import annotations

import dataclasses
import json
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from ipg_jax.inference.prediction import Prediction


def yolo(found: Prediction, file_name: str) -> str:
    """Returns a line `class x_center y_center width height` in shares of the image for each object.

    Args:
      found: what is in the image.
      file_name: of the image; the format has no place for it.
    """
    del file_name
    height, width = found.size
    return "".join(
        f"{label} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
        f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}\n"
        for label, (x0, y0, x1, y1) in zip(found.labels.tolist(), found.boxes.tolist(), strict=True)
    )


def voc(found: Prediction, file_name: str) -> str:
    """Returns VOC's XML, whose corners are whole pixels, the first and the last one, from 1 on.

    Args:
      found: what is in the image.
      file_name: of the image; the format has no place for its folder.
    """
    height, width = found.size
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = os.path.basename(file_name)
    size = ET.SubElement(root, "size")
    for name, value in (("width", width), ("height", height), ("depth", 3)):
        ET.SubElement(size, name).text = str(value)
    for name, (x0, y0, x1, y1) in zip(found.names, found.boxes.tolist(), strict=True):
        entry = ET.SubElement(root, "object")
        ET.SubElement(entry, "name").text = name
        ET.SubElement(entry, "difficult").text = "0"
        box = ET.SubElement(entry, "bndbox")
        # Of two pixels at least: readers take a box whose corners are equal for an empty one.
        left, top = min(round(x0), width - 2), min(round(y0), height - 2)
        for side, value in (
            ("xmin", left + 1),
            ("ymin", top + 1),
            ("xmax", max(round(x1), left + 2)),
            ("ymax", max(round(y1), top + 2)),
        ):
            ET.SubElement(box, side).text = str(value)
    ET.indent(root)
    return ET.tostring(root, encoding="unicode") + "\n"


def labelme(found: Prediction, file_name: str) -> str:
    """Returns labelme's JSON, with a rectangle and its score for each object.

    Args:
      found: what is in the image.
      file_name: path of the image, from the folder of the JSON file.
    """
    shapes: list[dict[str, Any]] = [
        {
            "label": name,
            "points": [[x0, y0], [x1, y1]],
            "group_id": None,
            "description": f"score {score:.4f}",
            "shape_type": "rectangle",
            "flags": {},
        }
        for name, score, (x0, y0, x1, y1) in zip(
            found.names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]
    document: dict[str, Any] = {
        "version": "5.0.0",
        "flags": {},
        "shapes": shapes,
        "imagePath": file_name,
        "imageData": None,
        "imageHeight": found.size[0],
        "imageWidth": found.size[1],
    }
    return json.dumps(document, indent=2) + "\n"


@dataclasses.dataclass(frozen=True)
class LabelFormat:
    """A kind of label files.

    Attributes:
      suffix: of their names, in the place of the image's.
      content: makes a file of what is in an image and of the image's path from the file's folder.
    """

    suffix: str
    content: Callable[[Prediction, str], str]


FORMATS = {
    "yolo": LabelFormat(".txt", yolo),
    "voc": LabelFormat(".xml", voc),
    "labelme": LabelFormat(".json", labelme),
}
"""The formats by their names."""
