"""Reading files that somebody else wrote: only regular files, never a pipe or a device.

Opening a named pipe waits for its writer, for ever if there is none, and a device such as
`/dev/zero` never ends. Both get into data sets, by archives and by links.
"""

from __future__ import annotations

import os
import re
import stat

import tensorflow as tf
from etils import epath

from ipg_jax.text import shown

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


def read_regular_file(path: epath.PathLike) -> bytes:
    """Returns the contents of a file, local or remote (`gs://`).

    Raises:
      OSError: the file cannot be read or is no regular file; the message names it and says why.
    """
    check_regular_file(path)
    try:
        with tf.io.gfile.GFile(os.fspath(path), "rb") as file:
            return file.read()
    except (tf.errors.OpError, UnicodeError) as error:
        reason = error.message if isinstance(error, tf.errors.OpError) else str(error)
        raise OSError(f"cannot read {shown(os.fspath(path))}: {shown(reason)}") from error


def check_regular_file(path: epath.PathLike) -> None:
    """Raises OSError, which names `path`, unless it is a regular file or a remote one (`gs://`).

    Links are followed. Nothing is opened.
    """
    name = os.fspath(path)
    local = local_path(path)
    if local is None:
        return
    try:
        mode = os.stat(local).st_mode
    # A ValueError stands for names that no file can have: with a null byte, with a lone surrogate.
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise OSError(f"cannot read {shown(name)}: {reason}") from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(f"cannot read {shown(name)}: it is {kind}, not a regular file")


def local_path(path: epath.PathLike) -> str | None:
    """Returns a path as the operating system takes it; None for a remote one (`gs://`)."""
    name = os.fspath(path)
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://[^/]*", name)
    if scheme is None:
        return name
    return name[scheme.end() :] if scheme[1] == "file" else None
