"""Which image files the arguments of a command line stand for: files, folders and patterns."""

from __future__ import annotations

import glob
import os
import pathlib
import re
from collections.abc import Collection, Sequence
from typing import NamedTuple

from etils import epath

from ipg_jax.images import IMAGE_SUFFIXES
from ipg_jax.inference.videos import VIDEO_SUFFIXES


class Inputs(NamedTuple):
    """What arguments stand for.

    Attributes:
      files: paths, local or `gs://`, each once and in the order of the arguments.
      refused: arguments that stand for no file, and why.
    """

    files: list[str]
    refused: dict[str, str]


def find_inputs(arguments: Sequence[epath.PathLike], *, ours: Collection[str] = ()) -> Inputs:
    """Finds the files.

    A folder stands for its image and video files, sorted by name, but not for those of folders in
    it; a pattern (`*`, `?`, `[...]`, `**`) for what it matches, sorted; and everything else for
    itself, whether there is such a file or not. A name that exists is no pattern.

    Args:
      arguments: what the user named.
      ours: real paths of the files that prediction itself wrote before: a folder or a pattern
        does not stand for them.
    """
    files: dict[str, None] = {}
    refused = {}
    for argument in map(os.fspath, arguments):
        try:
            files |= dict.fromkeys(_expand(argument, ours))
        except (OSError, ValueError) as error:
            refused[argument] = str(error)
    return Inputs(list(files), refused)


def _expand(argument: str, ours: Collection[str]) -> list[str]:
    """The files of one argument; raises OSError or ValueError if there is none."""
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", argument, re.IGNORECASE)
    if scheme and scheme[1] != "gs":
        raise ValueError(f"{scheme[1]} addresses are not read: download the file and name the copy")
    if scheme:
        folder = epath.Path(argument)
        if not folder.is_dir():
            return [argument]
        found = [os.fspath(path) for path in folder.iterdir()]
    elif os.path.isdir(argument):
        found = [os.path.join(argument, name) for name in os.listdir(argument)]
    elif glob.has_magic(argument) and not os.path.lexists(argument):
        found = [path for path in _matches(argument) if not os.path.isdir(path)]
        return _sorted(found, ours, "no file matches this pattern")
    else:
        return [argument]
    suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
    files = [path for path in found if os.path.splitext(path)[1].lower() in suffixes]
    reason = f"the folder has no image file and no video ({', '.join(suffixes)})"
    return _sorted(files, ours, reason)


def _matches(pattern: str) -> list[str]:
    """What a pattern matches; `**` follows no links, which may lead in circles."""
    if "**" not in pattern:
        return glob.glob(pattern)
    anchor = pathlib.Path(pattern).anchor
    relative = os.path.normpath(pattern.removeprefix(anchor))
    found = pathlib.Path(anchor or ".").glob(relative)
    hidden = any(part.startswith(".") for part in pathlib.Path(relative).parts)
    return [
        os.fspath(path)
        for path in found
        if hidden or not any(part.startswith(".") for part in path.parts)
    ]


def _sorted(paths: list[str], ours: Collection[str], reason: str) -> list[str]:
    """Those that are not ours; raises ValueError if there is none."""
    others = sorted(path for path in paths if os.path.realpath(path) not in ours)
    if not others:
        if paths:
            reason += " but pictures that prediction wrote"
        raise ValueError(reason)
    return others
