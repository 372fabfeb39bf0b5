"""The files below a folder, each once, whatever links lead round in circles or to one place."""

from __future__ import annotations

import collections
import os
import posixpath
from collections.abc import Collection, Iterator

from ipg_jax.files import is_folder, list_folder, local_path


class FileTree:
    """The files below a folder; hidden files and folders are left out.

    A folder is searched once, at its own place if that is below the searched one, else at the
    first link to it. A link to a folder that holds the searched one leads round in a circle and is
    not followed.

    Attributes:
      files: paths relative to the folder, with `/`.
      unfollowed: the same for links to folders that are searched already or lead in a circle.
    """

    def __init__(self, folder: str, suffixes: Collection[str]):
        """Searches the folder.

        Args:
          folder: local or `gs://`.
          suffixes: in small letters, of names that are taken for files without a question, because
            asking a remote store what each of them is would take long.

        Raises:
          OSError: a folder cannot be read.
        """
        self.files: list[str] = []
        self.unfollowed: list[str] = []
        self._folder = folder
        self._suffixes = suffixes
        self._place_of: dict[str, str] = {}  # by real path
        self._real_parents: dict[str, str] = {}
        start = real_path(folder)
        links = collections.deque(self._search("", start))
        while links:
            link = links.popleft()
            target = real_path(os.path.join(folder, link))
            if target in self._place_of or os.path.commonpath([target, start]) == target:
                self.unfollowed.append(link)
            else:
                links += self._search(link, target)

    def place(self, path: str) -> str:
        """Returns where a file was found that `path`, relative to the folder, leads to by links."""
        parent, name = posixpath.split(path)
        if parent not in self._real_parents:  # asking the file system is slow
            self._real_parents[parent] = real_path(os.path.join(self._folder, parent))
        return posixpath.join(self._place_of.get(self._real_parents[parent], parent), name)

    def _search(self, folder: str, real: str) -> list[str]:
        """Takes in what is below a folder, but for links to folders, which it returns."""
        links = []
        pending = [(folder, real)]
        while pending:
            folder, real = pending.pop()
            if real in self._place_of:
                continue
            self._place_of[real] = folder
            for name, may_lead_on in self._entries(folder):
                path = posixpath.join(folder, name)
                if not may_lead_on:
                    self.files.append(path)
                elif _is_link(os.path.join(self._folder, path)):
                    links.append(path)
                else:
                    pending.append((path, os.path.join(real, name)))
        return links

    def _entries(self, folder: str) -> Iterator[tuple[str, bool]]:
        """The names in a folder, sorted, and which of them are folders."""
        path = os.path.join(self._folder, folder)
        for name in list_folder(path):
            if not name.startswith("."):
                is_file = posixpath.splitext(name)[1].lower() in self._suffixes
                yield name, not is_file and is_folder(os.path.join(path, name))


def real_path(path: str) -> str:
    """Returns the path of a file or folder without links; remote stores have none."""
    local = local_path(path)
    try:
        return posixpath.normpath(path) if local is None else os.path.realpath(local)
    except ValueError:  # no file can have the name, such as one with a null byte
        return path


def _is_link(path: str) -> bool:
    local = local_path(path)
    return local is not None and os.path.islink(local)
