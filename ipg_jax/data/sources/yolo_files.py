"""The files of a YOLO data set: `data.yaml`, lists of images, and a text file for each image.

The format is that of Darknet as Ultralytics describes it: a line of a label file is a class and a
box `x_center y_center width height`, or a class and a polygon `x1 y1 x2 y2 ...`, all in shares of
the image's width and height. Where `data.yaml` has `kpt_shape: [points, values of each]`, the data
are poses: keypoints follow each box.
"""

from __future__ import annotations

import math
import os
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import yaml

from ipg_jax.data.sources.file_tree import FileTree
from ipg_jax.data.sources.text_files import decode_text
from ipg_jax.files import exists, is_folder, read_regular
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
      keypoint_values: how many values of keypoints follow a box; 0 unless the data are poses.
    """

    def __init__(self, path: str):
        """Reads the file.

        Args:
          path: `data.yaml` or the folder that it lies in, local or `gs://`.

        Raises:
          OSError: it cannot be read.
          ValueError: it is not YAML of that form; the message names what is missing.
        """
        if is_folder(path):
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
        self.keypoint_values = _keypoint_values(content.get("kpt_shape"), path)
        self._splits = content
        self._folder = os.path.dirname(path)
        root = content.get("path")
        if root is not None and not isinstance(root, str):
            raise ValueError(f"{shown(path)}: path is a folder, not {shown(root)}")
        self._root = self._find(root or "", [self._folder])

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
        if not value:
            known = [name for name in ("train", "val", "test") if self._splits.get(name)]
            raise ValueError(
                f"{shown(self.path)} has no folder or list of images for {shown(split)}; it has "
                f"{', '.join(known) or 'no splits'}"
            )
        parts = value if isinstance(value, list) else [value]
        found = YoloImages([], [])
        for part in parts:
            if not isinstance(part, str) or not part:
                raise ValueError(
                    f"{shown(self.path)}: {shown(split)} is a folder or a list of images, or "
                    f"several of these, not {shown(value)}"
                )
            try:
                self._add(self._find(part, [self._root, self._folder]), found)
            except (OSError, ValueError) as error:
                kind = OSError if isinstance(error, OSError) else ValueError
                raise kind(f"{shown(self.path)}, {shown(split)}: {error}") from error
        return found

    def _add(self, path: str, found: YoloImages) -> None:
        """Adds the images of a folder or of a list."""
        if path.lower().endswith(".txt"):
            found.paths.extend(self._listed(path))
            return
        tree = FileTree(path, (*IMAGE_SUFFIXES, ".txt"))
        found.unfollowed.extend(os.path.join(path, link) for link in tree.unfollowed)
        files = (f for f in tree.files if posixpath.splitext(f)[1].lower() in IMAGE_SUFFIXES)
        found.paths.extend(os.path.join(path, file) for file in sorted(files))

    def name(self, path: str) -> str:
        """Returns what an image is called: its path from the folder of the data set on."""
        root = os.path.join(self._root, "")
        return path.removeprefix(root) if path.startswith(root) else path

    @staticmethod
    def _find(part: str, bases: Sequence[str]) -> str:
        """What a path of the file means: the first that exists, from one of some folders on.

        Exports of Roboflow write `../train/images` for what lies beside the file.
        """
        texts = [part, part.removeprefix("../")]
        candidates = [
            os.path.normpath(os.path.join(base, text))
            if "://" not in base + text
            else os.path.join(base, text)
            for text in texts
            for base in bases
        ]
        return next((c for c in candidates if exists(c)), candidates[0])

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


def _keypoint_values(shape: Any, path: str) -> int:
    """How many values the keypoints of an object have, by `kpt_shape:`."""
    match shape:
        case None:
            return 0
        case [int(points), 2 | 3 as values] if points > 0:
            return points * values
    raise ValueError(
        f"{shown(path)}: kpt_shape is the number of keypoints and of the values of each, 2 or 3, "
        f"such as [17, 3], not {shown(shape)}"
    )


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


def read_labels(path: str, keypoint_values: int = 0) -> YoloLabels:
    """Reads a label file; one that does not exist holds no objects.

    Args:
      path: the file.
      keypoint_values: see `YoloLayout`; these values are left out, whatever they are.

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
            label, values = _numbers(line, keypoint_values)
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


def _numbers(line: str, keypoint_values: int) -> tuple[int, list[float]]:
    """Class and values of a line; raises ValueError if it is neither a box nor a polygon."""
    first, *rest = line.split()
    label = float(first)  # some tools write 0.0
    values = [float(text) for text in rest]
    if keypoint_values:
        if len(values) not in (4, 4 + keypoint_values):
            raise ValueError(line)
        values = values[:4]
    elif len(values) == 5:
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
