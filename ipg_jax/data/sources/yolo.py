"""YOLO's layout: `data.yaml`, folders of images, and a text file of boxes for each image."""

from __future__ import annotations

import collections
import concurrent.futures
import functools
import itertools
import math
import os
from collections.abc import Sequence

import numpy as np

from ipg_jax.data.sources.base import DataReport, Rule, build_records, resolve_classes
from ipg_jax.data.sources.files import FileSource, Verify, attempt, verify_images
from ipg_jax.data.sources.part import WHOLE, Part
from ipg_jax.data.sources.yolo_files import YoloLabels, YoloLayout, label_path, read_labels
from ipg_jax.images import DEFAULT_OPTIONS, ImageOptions
from ipg_jax.text import shown


class YoloSource(FileSource):
    """Images and boxes of one split of a YOLO data set.

    An image is named by its path in the folder of the data set (`images/train/a.jpg`). One without
    a label file has no objects, as Ultralytics reads it. A polygon becomes the box around it; the
    keypoints of a pose are left out.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        *,
        class_names: Sequence[str] = (),
        part: Part = WHOLE,
        drop_empty: bool = False,
        verify: Verify = "headers",
        threads: int = 16,
        image_options: ImageOptions = DEFAULT_OPTIONS,
    ):
        """Reads the labels and verifies the images, whose sizes are in the files alone.

        Args:
          root: `data.yaml` or the folder that it lies in, local or `gs://`.
          split: a key of `data.yaml`, such as `train`.
          class_names: the classes in the order of the labels; empty takes those of `data.yaml`.
          part: which of the images are read, by their ids.
          drop_empty: whether to leave out images without objects.
          verify: how thoroughly to check the images at start-up; `none` opens them as well.
          threads: how many files are read at a time; more help with remote stores.
          image_options: which image files are read and how.

        Raises:
          OSError: `data.yaml`, a folder or a list cannot be read.
          ValueError: `data.yaml` is damaged or has no such split, its classes are not all in
            `class_names`, or no usable image is left.
        """
        layout = YoloLayout(os.fspath(root))
        report = DataReport(f"{layout.path} ({split})")
        listed = layout.images(split)
        report.add(Rule.UNFOLLOWED_LINK, listed.unfollowed)
        uses = collections.Counter(path for path in listed.paths if part.has(layout.name(path)))
        paths = list(uses)
        repeated = (layout.name(path) for path, n in uses.items() for _ in range(n - 1))
        report.add(Rule.DUPLICATE_IMAGE, repeated)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            read = functools.partial(read_labels, keypoint_values=layout.keypoint_values)
            labels_of = list(pool.map(attempt, itertools.repeat(read), map(label_path, paths)))
        numbers = {n for found in labels_of if isinstance(found, YoloLabels) for n in found.labels}
        classes = resolve_classes(
            class_names,
            {name: i for i, name in enumerate(layout.class_names)},
            used=[name for i, name in enumerate(layout.class_names) if i in numbers],
            origin=layout.path,
            report=report,
        )
        label_of = {name: label for label, name in enumerate(classes)}
        names = [layout.name(path) for path in paths]
        verified = verify_images(
            paths,
            names,
            None,
            verify=verify,
            threads=threads,
            report=report,
            options=image_options,
        )

        keep = verified.usable.copy()
        image_index: list[int] = []
        labels: list[int] = []
        boxes: list[tuple[float, ...]] = []
        for index, (name, of_image) in enumerate(zip(names, labels_of, strict=True)):
            if not keep[index]:  # counted by `verify_images`
                continue
            if not isinstance(of_image, YoloLabels):
                report.add(Rule.UNREADABLE_ANNOTATION, [str(of_image)])
                keep[index] = False
                continue
            report.add(Rule.POLYGON_BOX, [name] * of_image.polygons)
            report.add(Rule.DUPLICATE_OBJECT, [name] * of_image.repeated)
            report.add(Rule.MALFORMED_LINE, (f"{name}: {shown(x)}" for x in of_image.malformed))
            report.add(Rule.NOT_SHARES, (f"{name}: {shown(x)}" for x in of_image.not_shares))
            for number, box in zip(of_image.labels, of_image.boxes, strict=True):
                if number >= len(layout.class_names):
                    report.add(Rule.UNKNOWN_CATEGORY, [f"{name}: class {number}"])
                    continue
                image_index.append(index)
                labels.append(label_of[layout.class_names[number]])
                boxes.append(box)
        rows = np.array(image_index, np.int64)
        records = build_records(
            image_ids=names,
            file_names=names,
            sizes=verified.sizes,
            image_index=rows,
            boxes=np.array(boxes, np.float64).reshape(-1, 4)
            * np.tile(verified.sizes[rows][:, ::-1], 2),
            labels=np.array(labels, np.int32),
            ignore=np.zeros(len(labels), bool),
            area=np.full(len(labels), math.nan),
            keep=keep,
            drop_empty=drop_empty,
            report=report,
        )
        path_of = dict(zip(names, paths, strict=True))
        super().__init__(
            image_options=image_options,
            unopened=verified.unopened,
            paths=[path_of[str(name)] for name in records.image_ids],
            name=f"{os.path.basename(os.path.dirname(os.path.abspath(layout.path)))}/{split}",
            class_names=list(classes),
            category_ids=list(classes.values()),
            records=records,
            report=report,
        )
