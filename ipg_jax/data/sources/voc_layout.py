"""Folders of PASCAL VOC's layout and of its descendants: where lists, XML files and images are.

Two layouts are known:

* VOC's own: `Annotations/<id>.xml`, `JPEGImages/<id>.<suffix>`, and lists `ImageSets/Main/*.txt`
  with an id a line. Ids may have sub-folders (`cam1/a`), as CVAT writes them;
* flat, as Roboflow exports: a folder for each split, with images and XML files side by side and no
  lists. An id begins with the split (`train/a`).
"""

from __future__ import annotations

import collections
import os
import posixpath
import re
from collections.abc import Iterable, Iterator

import tensorflow as tf

from ipg_jax.data.images import IMAGE_SUFFIXES
from ipg_jax.data.sources.base import Rule
from ipg_jax.data.sources.text_files import decode_text
from ipg_jax.files import read_regular
from ipg_jax.text import shown

_LISTS = os.path.join("ImageSets", "Main")

_MAX_DEPTH = 8
"""How many levels of folders are searched; links may go round in circles."""


class VocLayout:
    """One folder of either layout.

    Attributes:
      images: folder of the image files.
      annotations: folder of the XML files.
      stems: the id of each XML file, in order.
    """

    def __init__(self, folder: str, splits: Iterable[str]):
        """Looks for the lists of the splits, and lists the files.

        Args:
          folder: local or `gs://`.
          splits: names of lists, or of folders with images and XML files.

        Raises:
          OSError: a list or a folder cannot be read.
          ValueError: some of the splits are lists and others are folders, or a list is no text.
        """
        lists = {name: os.path.join(folder, _LISTS, f"{name}.txt") for name in splits}
        unlisted = [name for name, path in lists.items() if not tf.io.gfile.exists(path)]
        for name in unlisted:
            if not tf.io.gfile.isdir(os.path.join(folder, name)):
                raise FileNotFoundError(
                    f"there is no {shown(lists[name])}, nor a folder "
                    f"{shown(os.path.join(folder, name))} of images and XML files"
                )
        if unlisted and len(unlisted) < len(lists):
            raise ValueError(
                f"{shown(folder)}: {', '.join(map(shown, unlisted))} of the splits are folders, "
                f"the others are lists in {_LISTS}: join splits of one kind"
            )
        flat = bool(unlisted)
        self._origins = {n: os.path.join(folder, n) for n in unlisted} or lists
        self.images = folder if flat else os.path.join(folder, "JPEGImages")
        self.annotations = folder if flat else os.path.join(folder, "Annotations")
        files = list(_find_files(self.images))
        self._images = _by_stem(files, IMAGE_SUFFIXES)
        xml_files = files if flat else _find_files(self.annotations)
        self._xml_files = {stem: f for stem, (f, *_) in _by_stem(xml_files, (".xml",)).items()}
        self.stems = list(self._xml_files)
        self._members = {
            name: list(self._in_folder(name) if flat else self._in_list(path))
            for name, path in lists.items()
        }

    def origin(self, split: str) -> str:
        """The list or the folder of a split, for messages."""
        return self._origins[split]

    def members(self, split: str) -> list[str]:
        """The ids of a split in its order, as often as it names them."""
        return self._members[split]

    def annotation(self, stem: str) -> str:
        """The path of an image's XML file, whether it exists or not."""
        return os.path.join(self.annotations, self._xml_files.get(stem, f"{stem}.xml"))

    def image(self, stem: str, named: str) -> tuple[str, Rule | None]:
        """The image file of an id, and the rule that it falls under.

        Args:
          stem: the id.
          named: what the XML file calls the image. Many tools rename images and not this, so it
            decides only among several files with the id's name, such as a photo and its mask.

        Returns:
          A file name relative to the folder `images`, which need not exist.
        """
        files = self._images.get(stem, [f"{stem}.jpg"])
        if len(files) == 1:
            return files[0], None
        matching = [f for f in files if posixpath.basename(f).lower() == named.lower()]
        if len(matching) == 1:
            return matching[0], Rule.NAMED_FILE
        return files[0], Rule.AMBIGUOUS_FILE

    def _in_folder(self, split: str) -> Iterator[str]:
        prefix = "" if split == "." else f"{split}/"
        return (s for s in sorted(self._images.keys() | self.stems) if s.startswith(prefix))

    def _in_list(self, path: str) -> Iterator[str]:
        for line in re.split(r"[\r\n]+", decode_text(read_regular(path), path)):
            if line.strip():
                yield self._resolve(line.strip())

    def _resolve(self, line: str) -> str:
        """The id that a line of a list means.

        VOC's lists of a class have a second column of -1, 0 or 1. But names may hold spaces, so a
        line that is a name as a whole is one. Suffixes of files and the folder of the images may
        be written out.
        """
        readings = []
        for text in (line, re.sub(r"\s+-?[01]$", "", line)):
            path = posixpath.normpath(text.replace("\\", "/"))
            path = path.rpartition("JPEGImages/")[2]
            readings += [path, _stem(path, (*IMAGE_SUFFIXES, ".xml"))]
        for files in (self._xml_files, self._images):
            for reading in readings:
                if reading in files:
                    return reading
        return readings[-1]


def _stem(path: str, suffixes: Iterable[str]) -> str:
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in suffixes else path


def _by_stem(files: Iterable[str], suffixes: Iterable[str]) -> dict[str, list[str]]:
    """The files with one of the suffixes by their names without it, sorted."""
    found = collections.defaultdict(list)
    for file in sorted(files):
        if file.lower().endswith(tuple(suffixes)):
            found[posixpath.splitext(file)[0]].append(file)
    return dict(found)


def _find_files(folder: str, depth: int = 0) -> Iterator[str]:
    """The files below a folder, relative to it; hidden files and folders are left out.

    Asking a remote store what each name is would take long, so one of an image or an XML file is
    taken for a file.

    Raises:
      OSError: the folder cannot be read.
    """
    try:
        names = tf.io.gfile.listdir(folder)
    except (tf.errors.OpError, UnicodeError) as error:
        raise OSError(f"cannot list {shown(folder)}: {shown(error)}") from error
    for name in names:
        path = os.path.join(folder, name)
        stem, suffix = posixpath.splitext(name.rstrip("/"))
        if stem.startswith("."):
            continue
        known = suffix.lower() in (*IMAGE_SUFFIXES, ".xml")
        if name.endswith("/") or (not known and tf.io.gfile.isdir(path)):
            if depth < _MAX_DEPTH:
                yield from (posixpath.join(name, f) for f in _find_files(path, depth + 1))
        else:
            yield name
