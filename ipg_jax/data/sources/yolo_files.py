"""The files of a YOLO data set: `data.yaml`, lists of images, and a text file for each image.

The format is that of Darknet as Ultralytics describes it: a line of a label file is a class and a
box `x_center y_center width height`, or a class and a polygon `x1 y1 x2 y2 ...`, all in shares of
the image's width and height.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import tensorflow as tf
import yaml

from ipg_jax.data.sources.file_tree import FileTree
from ipg_jax.data.sources.text_files import decode_text
from ipg_jax.files import read_regular
from ipg_jax.images import IMAGE_SUFFIXES
from ipg_jax.text import shown


class YoloImages(NamedTuple):
    """The images of a split.

    Attributes:
      paths: in order, as often as they are named.
      unfollowed: links to folders that are not followed (`FileTree`).
    """

    paths: list[str]
    unfollowed: list[str]


class YoloLayout:
    """What `data.yaml` says.

    Attributes:
      path: the file.
      class_names: the classes by their numbers, from 0 on.
    """

    def __init__(self, path: str):
        """Reads the file.

        Args:
          path: `data.yaml` or the folder that it lies in, local or `gs://`.

        Raises:
          OSError: it cannot be read.
          ValueError: it is not YAML of that form; the message names what is missing.
        """
        if tf.io.gfile.isdir(path):
            path = os.path.join(path, "data.yaml")
        self.path = path
        try:
            content = yaml.safe_load(decode_text(read_regular(path), path))
        except (yaml.YAMLError, RecursionError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{shown(path)} is not YAML: {shown(reason)}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{shown(path)} holds no `names:` and no splits such as `train:`")
        self.class_names = _class_names(content.get("names"), path)
        count = content.get("nc", len(self.class_names))
        if count != len(self.class_names):
            raise ValueError(
                f"{shown(path)} names {len(self.class_names)} classes and says nc: {shown(count)}"
            )
        self._splits = content
        self._folder = os.path.dirname(path)
        root = content.get("path")
        if root is not None and not isinstance(root, str):
            raise ValueError(f"{shown(path)}: path is a folder, not {shown(root)}")
        self._root = self._find(root or "")

    def images(self, split: str) -> YoloImages:
        """Returns the images of a split, in order.

        Args:
          split: a key of the file, such as `train`, whose value is a folder of images, a list of
            paths in a text file, or several of these.

        Raises:
          OSError: a folder or list cannot be read.
          ValueError: the file has no such split, or a list is no text.
        """
        value = self._splits.get(split)
        parts = value if isinstance(value, list) else [value]
        texts = [part for part in parts if isinstance(part, str) and part]
        if not texts or len(texts) < len(parts):
            known = [name for name in ("train", "val", "test") if self._splits.get(name)]
            raise ValueError(
                f"{shown(self.path)} has no folder or list of images for {shown(split)}; it has "
                f"{', '.join(known) or 'no splits'}"
            )
        found = YoloImages([], [])
        for text in texts:
            try:
                self._add(self._find(text), found)
            except (OSError, ValueError) as error:
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(f"{shown(self.path)}, {shown(split)}: {error}") from error
        return found

    def _add(self, place: str, found: YoloImages) -> None:
        """Adds the images of a folder or of a list."""
        if place.lower().endswith(".txt"):
            found.paths.extend(self._listed(place))
            return
        tree = FileTree(place, (*IMAGE_SUFFIXES, ".txt"))
        found.unfollowed.extend(os.path.join(place, link) for link in tree.unfollowed)
        files = (f for f in tree.files if posixpath.splitext(f)[1].lower() in IMAGE_SUFFIXES)
        found.paths.extend(os.path.join(place, file) for file in sorted(files))

    def name(self, path: str) -> str:
        """Returns what an image is called: its path from the folder of the data set on."""
        root = os.path.join(self._root, "")
        return path.removeprefix(root) if path.startswith(root) else path

    def _find(self, part: str) -> str:
        """The place that a path of the file means: from `path:`, or from the file's folder.

        Exports of Roboflow write `../train/images` for what lies beside the file.
        """
        bases = [getattr(self, "_root", self._folder), self._folder]
        texts = [part, part.removeprefix("../")]
        candidates = [
            os.path.normpath(os.path.join(base, text))
            if "://" not in base + text
            else os.path.join(base, text)
            for text in texts
            for base in bases
        ]
        return next((c for c in candidates if tf.io.gfile.exists(c)), candidates[0])

    def _listed(self, path: str) -> Iterator[str]:
        """The images of a list: from `path:` on; those that begin with `./` from its folder on."""
        for line in re.split(r"[\r\n]+", decode_text(read_regular(path), path)):
            text = line.strip().replace("\\", "/")
            if text.startswith("./"):
                yield os.path.normpath(os.path.join(os.path.dirname(path), text))
            elif text:
                yield os.path.join(self._root, text)


def _class_names(names: Any, path: str) -> list[str]:
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise ValueError(
                f"{shown(path)}: names: has the numbers {shown(sorted(names, key=str))}, and they "
                "have to run from 0 on"
            )
        names = [names[i] for i in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(f"{shown(path)} has no `names:`, a list of the classes")
    names = [str(name) for name in names]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{shown(path)} names {', '.join(map(shown, repeated))} more than once")
    return names


def label_path(image: str) -> str:
    """Returns the label file of an image: below `labels` in the place of the last `images`.

    Where no folder is called `images`, it lies beside the image.
    """
    stem = os.path.splitext(image)[0]
    before, found, after = f"/{stem}".rpartition("/images/")
    return f"{before}/labels/{after}.txt"[1:] if found else f"{stem}.txt"


class YoloLabels(NamedTuple):
    """The objects of one image, in shares of its width and height.

    Attributes:
      labels: class numbers.
      boxes: `xyxy`.
      polygons: how many of them are around polygons.
      repeated: how many lines say what another one said.
      malformed: the lines that are neither, in words.
      not_shares: lines whose values are no shares, but pixels perhaps, in words.
    """

    labels: list[int]
    boxes: list[tuple[float, float, float, float]]
    polygons: int
    repeated: int
    malformed: list[str]
    not_shares: list[str]


BEYOND = 1.01
"""How large a share may be, with all rounding."""


def read_labels(path: str) -> YoloLabels:
    """Reads a label file; one that does not exist holds no objects.

    Raises:
      OSError: it exists and cannot be read.
      ValueError: it is no text.
    """
    try:
        text = decode_text(read_regular(path), path)
    except FileNotFoundError:
        text = ""
    labels, boxes, malformed, not_shares = [], [], [], []
    polygons = 0
    lines = [" ".join(line.split()) for line in re.split(r"[\r\n]+", text)]
    lines = [line for line in lines if line]
    unique = list(dict.fromkeys(lines))
    for line in unique:
        try:
            label, values = _numbers(line)
        except ValueError:
            malformed.append(line)
            continue
        if any(value > BEYOND for value in values):
            not_shares.append(line)
            continue
        polygons += len(values) > 4
        labels.append(label)
        boxes.append(_box(values))
    return YoloLabels(labels, boxes, polygons, len(lines) - len(unique), malformed, not_shares)


def _numbers(line: str) -> tuple[int, list[float]]:
    """Class and values of a line; raises ValueError if it is neither a box nor a polygon."""
    first, *rest = line.split()
    label = float(first)  # some tools write 0.0
    values = [float(text) for text in rest]
    if len(values) == 5:
        values.pop()  # the score of a box that a detector drew
    if not label.is_integer() or not 0 <= label < 2**31:
        raise ValueError(line)
    if len(values) < 4 or (len(values) > 4 and (len(values) < 6 or len(values) % 2)):
        raise ValueError(line)
    return int(label), values


def _box(values: Sequence[float]) -> tuple[float, float, float, float]:
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan, math.nan, math.nan
    xs, ys = values[::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)
