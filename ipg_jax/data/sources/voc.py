"""PASCAL VOC's layout: one XML file for each image.

Format: Everingham et al., "The PASCAL Visual Object Classes Challenge 2012 Development Kit". The
folders are described in `voc_layout`, the XML files in `voc_xml`.

VOC counts pixels from 1 and its `xmax`, `ymax` are the last pixel inside. Here pixel (0, 0) covers
[0, 1) x [0, 1), so the box is `(xmin - 1, ymin - 1, xmax, ymax)`. Its width is VOC's
`xmax - xmin + 1`: the plain IoU of such boxes is the IoU with "+1" of VOC's evaluation code, and
adding (1, 1, 0, 0) gives the file's numbers back.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ipg_jax.data.sources.base import DataReport, Rule, build_records, resolve_classes
from ipg_jax.data.sources.files import FileSource, Verify, attempt, verify_images
from ipg_jax.data.sources.part import WHOLE, Part
from ipg_jax.data.sources.voc_layout import VocLayout
from ipg_jax.data.sources.voc_xml import VocAnnotation, half_open, read_annotation
from ipg_jax.files import is_regular
from ipg_jax.images import DEFAULT_OPTIONS, ImageOptions
from ipg_jax.text import shown


class _Place(NamedTuple):
    """Where an image and its annotation lie: the VOC folder, relative to the root, and the id."""

    folder: str
    stem: str


class VocSource(FileSource):
    """Images and boxes of one split of a VOC folder, or of several joined.

    A split is the name of a list in `ImageSets/Main` (or, in a flat export, of a folder with images
    and XML files), or several joined by `+` (`train+val`). Where the root holds several VOC
    folders, as `VOCdevkit` does, each name follows its folder:
    `VOC2007/trainval+VOC2012/trainval`. Images are named by their ids; those of a split that joins
    several folders are preceded by the folder, `VOC2007/000005`, so that no two clash.

    Objects marked difficult become `ignore`. A box with `xmax <= xmin` or `ymax <= ymin` has no
    extent and is dropped: see `half_open`.
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
        """Reads the annotations and verifies the images.

        Args:
          root: the folder that holds `Annotations`, `ImageSets` and `JPEGImages`, or a folder of
            such folders, or one with a flat folder for each split; local or `gs://`.
          split: files of `ImageSets/Main` without `.txt`, e.g. `trainval`; see above. `.` is all of
            a folder without lists.
          class_names: the classes in the order of the labels. Empty takes the sorted names of all
            XML files in the split's folders, so that labels do not depend on the lists.
          part: which of the images are read, by their ids.
          drop_empty: whether to leave out images without objects.
          verify: how thoroughly to check the images at start-up.
          threads: how many files are read at a time; more help with remote stores.
          image_options: which image files are read and how.

        Raises:
          OSError: `root` is a file, or a list or a folder of the split cannot be read.
          ValueError: the split is not of that form, a list is no text, the data have a class that
            is not in `class_names`, or no usable image is left.
        """
        root = os.fspath(root)
        if is_regular(root):
            raise NotADirectoryError(
                f"{shown(root)} is a file: the root is the folder that holds Annotations, "
                "ImageSets and JPEGImages, or one for each split"
            )
        splits = [_parse_list(name, split) for name in split.split("+")]
        layouts = {
            folder: VocLayout(os.path.join(root, folder), [n for f, n in splits if f == folder])
            for folder in dict.fromkeys(folder for folder, _ in splits)
        }
        origin = " + ".join(layouts[folder].origin(name) for folder, name in splits)
        report = DataReport(origin)

        def qualified(name: str, place: _Place) -> str:
            return f"{place.folder}/{name}" if len(layouts) > 1 else name

        uses = collections.Counter(
            _Place(folder, stem)
            for folder, name in splits
            for stem in layouts[folder].members(name)
            if part.has(qualified(stem, _Place(folder, stem)))
        )
        repeated = (qualified(p.stem, p) for p, n in uses.items() for _ in range(n - 1))
        report.add(Rule.DUPLICATE_IMAGE, repeated)
        for place in [p for p in uses if layouts[p.folder].is_ambiguous(p.stem)]:
            report.add(Rule.AMBIGUOUS_ANNOTATION, [qualified(f"{place.stem}.xml", place)])
            del uses[place]
        for folder, layout in layouts.items():
            report.add(Rule.UNFOLLOWED_LINK, (os.path.join(folder, p) for p in layout.unfollowed))

        wanted = dict.fromkeys(uses)
        if not class_names:
            wanted |= {
                _Place(f, stem): None for f, layout in layouts.items() for stem in layout.stems
            }
        paths = [layouts[place.folder].annotation(place.stem) for place in wanted]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            contents = pool.map(attempt, itertools.repeat(read_annotation), paths)
            annotations = dict(zip(wanted, contents, strict=True))
        read = {p: a for p, a in annotations.items() if isinstance(a, VocAnnotation)}
        found = sorted({name for annotation in read.values() for name in annotation.names})
        classes = resolve_classes(
            class_names,
            {name: i for i, name in enumerate(found)},
            used=found,
            origin=origin,
            report=report,
        )
        label_of = {name: label for label, name in enumerate(classes)}

        places, file_names = [], []
        for place in uses:
            annotation = annotations[place]
            if not isinstance(annotation, VocAnnotation):
                report.add(Rule.UNREADABLE_ANNOTATION, [str(annotation)])
                continue
            file_name, rule = layouts[place.folder].image(place.stem, annotation.file_name)
            if rule is not None:
                report.add(rule, [qualified(file_name, place)])
            if rule is not Rule.AMBIGUOUS_FILE:
                places.append(place)
                file_names.append(file_name)
        chosen = [read[place] for place in places]
        for place, annotation in zip(places, chosen, strict=True):
            name = qualified(f"{place.stem}.xml", place)
            report.add(Rule.NO_CLASS, [name] * annotation.unnamed)
            report.add(Rule.REPEATED_ELEMENT, [name] * annotation.repeated)
            report.add(Rule.UNREADABLE_FLAG, (f"{name}: {f}" for f in annotation.unreadable_flags))
        path_of = {
            qualified(p.stem, p): os.path.join(layouts[p.folder].images, file_name)
            for p, file_name in zip(places, file_names, strict=True)
        }
        names = [qualified(name, p) for p, name in zip(places, file_names, strict=True)]
        verified = verify_images(
            list(path_of.values()),
            names,
            np.array([a.size for a in chosen], np.int32).reshape(-1, 2),
            verify=verify,
            threads=threads,
            report=report,
            options=image_options,
        )

        labels = [label_of[name] for a in chosen for name in a.names]
        records = build_records(
            image_ids=list(path_of),
            file_names=names,
            sizes=verified.sizes,
            image_index=np.repeat(np.arange(len(chosen)), [len(a.names) for a in chosen]),
            boxes=half_open(
                np.array([box for a in chosen for box in a.boxes], np.float64).reshape(-1, 4)
            ),
            labels=np.array(labels, np.int32),
            ignore=np.array([flag for a in chosen for flag in a.difficult], bool),
            area=np.full(len(labels), math.nan),
            keep=verified.usable,
            drop_empty=drop_empty,
            report=report,
        )
        super().__init__(
            image_options=image_options,
            unopened=verified.unopened,
            paths=[path_of[str(name)] for name in records.image_ids],
            name=f"{os.path.basename(os.path.normpath(root))}/{split}",
            class_names=list(classes),
            category_ids=range(len(classes)),
            records=records,
            report=report,
        )


def _parse_list(name: str, split: str) -> tuple[str, str]:
    """The folder ("" for the root itself) and the name of one list of a split."""
    folder, _, stem = name.strip().rpartition("/")
    if not stem:
        raise ValueError(
            f"the split {split!r} is not of the form trainval, train+val or "
            "VOC2007/trainval+VOC2012/trainval"
        )
    return folder, stem
