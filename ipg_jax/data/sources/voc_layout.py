"""Folders of PASCAL VOC's layout and of its descendants: where lists, XML files and images are.

Two layouts are known:

* VOC's own: `Annotations/<id>.xml`, `JPEGImages/<id>.<suffix>`, and lists `ImageSets/Main/*.txt`
  with an id a line. Ids may have sub-folders (`cam1/a`), as CVAT writes them;
* flat, as Roboflow exports: a folder for each split, with images and XML files side by side and no
  lists. An id begins with the split (`train/a`).

Without lists, the split `.` is all of a folder: of a flat one, or of one that has a folder of
images (`JPEGImages` or `images`) and one of XML files (`Annotations`), in capitals or not.
"""

from __future__ import annotations

import collections
import itertools
import os
import posixpath
import re
from collections.abc import Iterable, Iterator

from ipg_jax.data.sources.base import Rule
from ipg_jax.data.sources.file_tree import FileTree
from ipg_jax.data.sources.text_files import decode_text
from ipg_jax.files import exists, is_folder, list_folder, read_regular
from ipg_jax.images import IMAGE_SUFFIXES
from ipg_jax.text import shown

_LISTS = os.path.join("ImageSets", "Main")
_SUFFIXES = (*IMAGE_SUFFIXES, ".xml")


class VocLayout:
    """One folder of either layout.

    Attributes:
      images: folder of the image files.
      annotations: folder of the XML files.
      stems: the ids with one XML file, in order.
      unfollowed: links in the folders of splits that are not followed (`FileTree`).
    """

    def __init__(self, folder: str, splits: Iterable[str]):
        """Looks for the lists of the splits, and lists the files.

        Args:
          folder: local or `gs://`.
          splits: names of lists, or of folders with images and XML files, or `.`.

        Raises:
          OSError: a list or a folder cannot be read.
          ValueError: some of the splits are lists and others are folders, or a list is no text.
        """
        lists = {name: os.path.join(folder, _LISTS, f"{name}.txt") for name in splits}
        unlisted = [name for name, path in lists.items() if not exists(path)]
        for name in unlisted:
            if not is_folder(os.path.join(folder, name)):
                raise FileNotFoundError(
                    f"there is no {shown(lists[name])}, nor a folder "
                    f"{shown(os.path.join(folder, name))} of images and XML files: VOC's layout is "
                    "JPEGImages, Annotations and lists of names ImageSets/Main/*.txt, a flat one a "
                    "folder of images and XML files for each split. Without lists, the split . is "
                    "all images, which config.data.eval_share divides"
                )
        if unlisted and len(unlisted) < len(lists):
            raise ValueError(
                f"{shown(folder)}: {', '.join(map(shown, unlisted))} of the splits are folders, "
                f"the others are lists in {_LISTS}: join splits of one kind"
            )
        self._origins = {n: os.path.join(folder, n) for n in unlisted} or lists
        two_folders = _two_folders(folder) if unlisted == ["."] else None
        flat = bool(unlisted) and two_folders is None
        self.images, self.annotations = two_folders or (
            (folder, folder)
            if flat
            else (os.path.join(folder, "JPEGImages"), os.path.join(folder, "Annotations"))
        )
        self._tree = FileTree(self.images, _SUFFIXES)
        trees = {n: FileTree(os.path.join(folder, n), _SUFFIXES) for n in unlisted if flat}
        self.unfollowed = [
            posixpath.normpath(f"{name}/{link}")
            for name in trees
            for link in trees[name].unfollowed
        ]
        in_split = {
            name: [self._tree.place(posixpath.join(name, file)) for file in tree.files]
            for name, tree in trees.items()
        }
        # A link may lead a split's folder to files that are not below this one.
        files = sorted({*self._tree.files, *itertools.chain(*in_split.values())})
        self._images = _by_stem(files, IMAGE_SUFFIXES)
        xml_files = files if flat else FileTree(self.annotations, _SUFFIXES).files
        self._xml_files = _by_stem(xml_files, (".xml",))
        self.stems = [stem for stem in self._xml_files if not self.is_ambiguous(stem)]
        if flat:
            self._members = {n: list(_by_stem(found, _SUFFIXES)) for n, found in in_split.items()}
        elif unlisted:
            self._members = {".": sorted({*self._images, *self._xml_files})}
        else:
            self._members = {name: list(self._in_list(path)) for name, path in lists.items()}

    def origin(self, split: str) -> str:
        """The list or the folder of a split, for messages."""
        return self._origins[split]

    def members(self, split: str) -> list[str]:
        """The ids of a split in its order, as often as it names them."""
        return self._members[split]

    def is_ambiguous(self, stem: str) -> bool:
        """Whether an image has several XML files, such as `a.xml` and `a.XML`."""
        return len(self._xml_files.get(stem, ())) > 1

    def annotation(self, stem: str) -> str:
        """The path of an image's XML file, whether it exists or not; of several, the first."""
        return os.path.join(self.annotations, self._xml_files.get(stem, [f"{stem}.xml"])[0])

    def image(self, stem: str, named: str) -> tuple[str, Rule | None]:
        """The image file of an id, and the rule that it falls under.

        Args:
          stem: the id.
          named: what the XML file calls the image. Many tools rename images and not this, so it
            decides only among several files with the id's name, such as a photo and its mask.

        Returns:
          A file name relative to the folder `images`, which need not exist.
        """
        files = self._images.get(stem) or self._images.get(self._tree.place(stem), [f"{stem}.jpg"])
        if len(files) == 1:
            return files[0], None
        names = [posixpath.basename(file) for file in files]
        if named not in names:
            names, named = [name.lower() for name in names], named.lower()
        if names.count(named) == 1:
            return files[names.index(named)], Rule.NAMED_FILE
        return files[0], Rule.AMBIGUOUS_FILE

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
            readings += [path, _stem(path, _SUFFIXES)]
        for find in (str, self._tree.place):  # as it is written, then behind links
            for files in (self._xml_files, self._images):
                for reading in readings:
                    if (name := find(reading)) in files:
                        return name
        return readings[-1]


def _two_folders(folder: str) -> tuple[str, str] | None:
    """The folders of the images and of the XML files in a folder; None unless it has both."""
    found = {name.lower(): os.path.join(folder, name) for name in list_folder(folder)}
    images, annotations = found.get("jpegimages", found.get("images")), found.get("annotations")
    return None if images is None or annotations is None else (images, annotations)


def _stem(path: str, suffixes: Iterable[str]) -> str:
    stem, suffix = posixpath.splitext(path)
    return stem if suffix.lower() in suffixes else path


def _by_stem(files: Iterable[str], suffixes: Iterable[str]) -> dict[str, list[str]]:
    """The files with one of the suffixes by their names without it; both sorted."""
    found = collections.defaultdict(list)
    for file in sorted(files):
        if file.lower().endswith(tuple(suffixes)):
            found[posixpath.splitext(file)[0]].append(file)
    return dict(sorted(found.items()))
