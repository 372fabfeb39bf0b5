"""Files: written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import stat
from collections.abc import Iterator
from typing import Any

from etils import epath

from ipg_jax.text import shown

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe (FIFO)",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
}


_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is one of a store of objects, such as `gs://BUCKET/...`.

    To be written to, `file://` is taken for such a store.
    """
    return _SCHEME.match(os.fspath(path)) is not None


def local_path(path: epath.PathLike) -> str | None:
    """Returns a path as the operating system takes it, without `file://`; None for a remote one."""
    name = os.fspath(path)
    scheme = _SCHEME.match(name)
    if scheme is None:
        return name
    _, root, rest = name[scheme.end() :].partition("/")  # behind the host
    return root + rest if scheme[1].lower() == "file" else None


def write_whole(path: epath.PathLike, data: str | bytes) -> None:
    """Writes a file such that `path` is the old one or the new one, whole, whatever happens.

    It is written beside `path` and renamed. A store of objects shows a file once it is closed, and
    needs no more.

    Args:
      path: local or `gs://`, in a folder that exists.
      data: all of it; text is written as UTF-8.

    Raises:
      OSError: it cannot be written, as on a full disk; the message names `path`.
    """
    path = epath.Path(path)
    data = data.encode() if isinstance(data, str) else data
    if is_remote(path):
        path.write_bytes(data)
        return
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            with open(beside, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # or a power failure may leave an empty file by that name
            os.replace(beside, path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(f"cannot write {path}: {error.strerror or error}") from error


def check_folder(path: epath.PathLike) -> None:
    """Raises NotADirectoryError where something is in the way of a folder: a file of its name.

    Or of the name of a folder above it. That the folder is not there yet is no error.
    """
    path = epath.Path(path)
    if is_remote(path):
        return
    for place in (path, *path.parents):
        if os.path.isdir(place):
            return
        if os.path.lexists(place):
            raise NotADirectoryError(
                f"there can be no folder {path}, for {place} is not a folder: move it away, "
                "or use another folder"
            )


def make_folder(path: epath.PathLike) -> None:
    """Makes a folder and those above it, if need be.

    Raises:
      NotADirectoryError: see `check_folder`.
      OSError: it cannot be made.
    """
    check_folder(path)
    epath.Path(path).mkdir(parents=True, exist_ok=True)


def is_regular(path: epath.PathLike) -> bool:
    """Returns whether there is such a file, and not a folder, a pipe or a device."""
    local = local_path(path)
    return exists(path) and not is_folder(path) if local is None else os.path.isfile(local)


def exists(path: epath.PathLike) -> bool:
    """Returns whether there is such a file or folder, or anything else of that name.

    Raises:
      OSError: a store cannot be asked; the message names the path.
    """
    local = local_path(path)
    if local is not None:
        return os.path.exists(local)
    with _named("look at", path):
        return _remote(path).exists()


def is_folder(path: epath.PathLike) -> bool:
    """Returns whether there is such a folder; see `exists`."""
    local = local_path(path)
    if local is not None:
        return os.path.isdir(local)
    with _named("look at", path):
        return _remote(path).is_dir()


def list_folder(path: epath.PathLike) -> list[str]:
    """Returns the names in a folder, sorted.

    Raises:
      OSError: it cannot be listed; the message names it.
    """
    local = local_path(path)
    with _named("list", path):
        if local is not None:
            return sorted(os.listdir(local))
        return sorted(entry.name for entry in _remote(path).iterdir())


def check_regular(path: epath.PathLike) -> None:
    """Raises OSError, which names `path`, unless it is a regular file or a remote one.

    Opening a named pipe waits for its writer, for ever if there is none, and a device such as
    `/dev/zero` never ends; both get into data sets, by archives and by links. Links are followed,
    and nothing is opened.

    Raises:
      FileNotFoundError: there is no such file.
      OSError: it is something else, or cannot be looked at.
    """
    name, local = os.fspath(path), local_path(path)
    if local is None:
        return
    try:
        mode = os.stat(local).st_mode
    except OSError as error:
        raise _unreadable(name, error) from error
    except ValueError as error:  # no file can have that name: a null byte, a lone surrogate
        raise FileNotFoundError(f"cannot read {shown(name)}: {error}") from error
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(f"cannot read {shown(name)}: it is {kind}, not a regular file")


def read_regular(path: epath.PathLike) -> bytes:
    """Returns the contents of a file, local or `gs://`; see `check_regular`.

    Raises:
      FileNotFoundError: there is none.
      OSError: it is no regular file, such as a folder, or cannot be read; the message names it.
    """
    check_regular(path)
    local = local_path(path)
    try:
        if local is not None:
            with open(local, "rb") as file:
                return file.read()
    except OSError as error:
        raise _unreadable(os.fspath(path), error) from error
    with _named("read", path):
        return _remote(path).read_bytes()


def _remote(path: epath.PathLike) -> epath.Path:
    """A path of a store, whose client is TensorFlow's where that is installed."""
    with contextlib.suppress(ModuleNotFoundError):  # else epath imports it, with a dozen notes
        importlib.import_module("ipg_jax.data.quiet_tensorflow")
    try:
        return epath.Path(path)
    except KeyError as error:
        scheme = shown(error.args[0])
        raise OSError(f"{scheme} is no known store: use a local path or gs://BUCKET/...") from error


@contextlib.contextmanager
def _named(what: str, path: epath.PathLike) -> Iterator[None]:
    """Raises OSError, which names the path, for errors of any type, as clients of stores have."""
    try:
        yield
    except Exception as error:
        absent = isinstance(error, FileNotFoundError) or type(error).__name__ == "NotFoundError"
        kind = FileNotFoundError if absent else OSError
        reason = getattr(error, "strerror", None) or error
        raise kind(f"cannot {what} {shown(os.fspath(path))}: {shown(reason)}") from error


def _unreadable(name: str, error: OSError) -> OSError:
    """An error of the same type that names the file on one line."""
    return type(error)(f"cannot read {shown(name)}: {error.strerror or error}")


def read_json(path: epath.PathLike, kind: type, remedy: str) -> Any:
    """Returns the value that a JSON file holds.

    Args:
      path: local or `gs://`.
      kind: what it has to hold: dict or list.
      remedy: what to do about a damaged file; part of the message.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is damaged; the message names it and the remedy.
    """
    try:
        value = json.loads(read_regular(path).decode())
    # A UnicodeDecodeError is a ValueError; brackets within brackets end in the other.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged, not JSON ({error}): {remedy}") from error
    if not isinstance(value, kind):
        raise ValueError(
            f"{path} is damaged, it holds a {type(value).__name__} and not a {kind.__name__}: "
            f"{remedy}"
        )
    return value
