"""PASCAL VOC's layout: one XML file for each image.

Format: Everingham et al., "The PASCAL Visual Object Classes Challenge 2012 Development Kit".
`Annotations/<id>.xml`, `JPEGImages/<id>.<suffix>`, and `ImageSets/Main/<list>.txt` with one id a
line.

VOC counts pixels from 1 and its `xmax`, `ymax` are the last pixel inside. Here pixel (0, 0) covers
[0, 1) x [0, 1), so the box is `(xmin - 1, ymin - 1, xmax, ymax)`. Its width is VOC's
`xmax - xmin + 1`: the plain IoU of such boxes is the IoU with "+1" of VOC's evaluation code, and
adding (1, 1, 0, 0) gives the file's numbers back.
"""

from __future__ import annotations

import collections
import concurrent.futures
import math
import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from ipg_jax.data.images import read_file
from ipg_jax.data.sources.base import DataReport, Rule, build_records, check_class_names
from ipg_jax.data.sources.files import FileSource, Verify, verify_images


class _Annotation(NamedTuple):
    """The contents of one XML file; `boxes` are VOC's numbers, `size` is (height, width)."""

    size: tuple[int, int]
    names: list[str]
    boxes: list[tuple[float, float, float, float]]
    difficult: list[bool]


class _Place(NamedTuple):
    """Where an image and its annotation lie: the VOC folder, relative to the root, and the id."""

    folder: str
    stem: str


class VocSource(FileSource):
    """Images and boxes of one split of a VOC folder, or of several joined.

    A split is the name of a list in `ImageSets/Main`, or several joined by `+` (`train+val`). Where
    the root holds several VOC folders, as `VOCdevkit` does, each name follows its folder:
    `VOC2007/trainval+VOC2012/trainval`. Images are named by their ids; those of a split that joins
    several folders are preceded by the folder, `VOC2007/000005`, so that no two clash.

    Objects marked difficult become `ignore`. A box with `xmax <= xmin` or `ymax <= ymin` has no
    extent and is dropped: read literally it would be a line of one pixel, but annotation tools
    write it for a click without a drag.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] = (),
        drop_empty: bool = False,
        verify: Verify = "headers",
        threads: int = 16,
    ):
        """Reads the annotations and verifies the images.

        Args:
          root: the folder that holds `Annotations`, `ImageSets` and `JPEGImages`, or a folder of
            such folders; local or `gs://`.
          split: files of `ImageSets/Main` without `.txt`, e.g. `trainval`; see above.
          class_names: the classes in the order of the labels. Empty takes the sorted names of all
            files in the `Annotations` of the split's folders, so that labels do not depend on the
            lists.
          drop_empty: whether to leave out images without objects.
          verify: how thoroughly to check the images at start-up.
          threads: how many files are read at a time; more help with remote stores.

        Raises:
          OSError: a list of the split cannot be read.
          ValueError: the split is not of that form, it holds a name that is not in `class_names`,
            or no usable image is left.
        """
        root = os.fspath(root)
        lists = [_parse_list(name, split) for name in split.split("+")]
        folders = list(dict.fromkeys(folder for folder, _ in lists))
        origins = [os.path.join(root, folder, _LISTS, f"{name}.txt") for folder, name in lists]
        origin = " + ".join(origins)
        report = DataReport(origin)

        uses = collections.Counter(
            _Place(folder, line.split()[0])
            for (folder, _), path in zip(lists, origins, strict=True)
            for line in read_file(path).decode().splitlines()
            if line.strip()
        )

        def qualified(name: str, place: _Place) -> str:
            return f"{place.folder}/{name}" if len(folders) > 1 else name

        places = list(uses)
        report.add(
            Rule.DUPLICATE_IMAGE,
            (qualified(p.stem, p) for p, n in uses.items() for _ in range(n - 1)),
        )

        wanted = places
        if not class_names:
            found_files = [(f, _stems(os.path.join(root, f, "Annotations"))) for f in folders]
            wanted = [_Place(folder, stem) for folder, stems in found_files for stem in stems]
        paths = [os.path.join(root, p.folder, "Annotations", f"{p.stem}.xml") for p in wanted]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            annotations = dict(zip(wanted, pool.map(_read_annotation, paths), strict=True))
        found = sorted({name for a in annotations.values() if a is not None for name in a.names})
        if class_names:
            check_class_names(class_names, found, origin=origin, subset=True)
        else:
            class_names = found
        label_of = {name: label for label, name in enumerate(class_names)}

        missing = [p for p in places if annotations.get(p) is None]
        report.add(Rule.UNREADABLE_ANNOTATION, (qualified(f"{p.stem}.xml", p) for p in missing))
        places = [p for p in places if annotations.get(p) is not None]
        chosen = [a for p in places if (a := annotations[p]) is not None]
        files = {folder: _stems(os.path.join(root, folder, "JPEGImages")) for folder in folders}
        file_names = [files[p.folder].get(p.stem, f"{p.stem}.jpg") for p in places]
        path_of = {
            qualified(p.stem, p): os.path.join(root, p.folder, "JPEGImages", name)
            for p, name in zip(places, file_names, strict=True)
        }
        sizes, readable = verify_images(
            list(path_of.values()),
            np.array([a.size for a in chosen], np.int32).reshape(-1, 2),
            verify=verify,
            threads=threads,
            report=report,
        )

        boxes = np.array([box for a in chosen for box in a.boxes], np.float64).reshape(-1, 4)
        no_extent = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
        boxes[:, :2] -= 1
        # One pixel wide by the letter of the format; the class docstring says why it is dropped.
        boxes[no_extent, 2:] = boxes[no_extent, :2]
        labels = [label_of[name] for a in chosen for name in a.names]
        records = build_records(
            image_ids=list(path_of),
            file_names=[qualified(name, p) for p, name in zip(places, file_names, strict=True)],
            sizes=sizes,
            image_index=np.repeat(np.arange(len(chosen)), [len(a.names) for a in chosen]),
            boxes=boxes,
            labels=np.array(labels, np.int32),
            ignore=np.array([flag for a in chosen for flag in a.difficult], bool),
            area=np.full(len(labels), math.nan),
            keep=readable,
            drop_empty=drop_empty,
            report=report,
        )
        super().__init__(
            paths=[path_of[str(name)] for name in records.image_ids],
            name=f"{os.path.basename(os.path.normpath(root))}/{split}",
            class_names=class_names,
            category_ids=range(len(class_names)),
            records=records,
            report=report,
        )


_LISTS = os.path.join("ImageSets", "Main")


def _parse_list(name: str, split: str) -> tuple[str, str]:
    """The folder ("" for the root itself) and the name of one list of a split."""
    folder, _, stem = name.strip().rpartition("/")
    if not stem:
        raise ValueError(
            f"the split {split!r} is not of the form trainval, train+val or "
            "VOC2007/trainval+VOC2012/trainval"
        )
    return folder, stem


def _stems(folder: str) -> dict[str, str]:
    """The files of a folder by their name without suffix, sorted."""
    return {os.path.splitext(name)[0]: name for name in sorted(tf.io.gfile.listdir(folder))}


def _read_annotation(path: str) -> _Annotation | None:
    """Reads one XML file, None if it is missing or damaged."""
    try:
        tree = ElementTree.fromstring(read_file(path))
        objects = tree.findall("object")
        return _Annotation(
            size=(
                int(float(tree.findtext("size/height") or 0)),
                int(float(tree.findtext("size/width") or 0)),
            ),
            names=[_text(o, "name") for o in objects],
            boxes=[_box(o) for o in objects],
            difficult=[bool(int(o.findtext("difficult") or 0)) for o in objects],
        )
    except (OSError, ValueError, ElementTree.ParseError):
        return None


def _text(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None:
        raise ValueError(f"an object has no {path}")
    return text.strip()


def _box(element: ElementTree.Element) -> tuple[float, float, float, float]:
    """`(xmin, ymin, xmax, ymax)` as written, NaN where it is not four numbers."""
    try:
        xmin, ymin, xmax, ymax = (
            float(_text(element, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")
        )
    except ValueError:
        return math.nan, math.nan, math.nan, math.nan
    return xmin, ymin, xmax, ymax
