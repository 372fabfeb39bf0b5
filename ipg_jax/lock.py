"""The lock of a folder, which keeps a second program out of it."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from typing import BinaryIO

from etils import epath

from ipg_jax.files import is_remote, make_folder
from ipg_jax.text import shown

logger = logging.getLogger(__name__)

_SIGNED = b"process "


class FolderLock:
    """Holds a lock file in a folder from `acquire` to the end of its context.

    The lock is the operating system's (`flock`), which ends with the process that holds it, however
    that ends: there are no stale ones. The file says who holds it and goes with the lock; one that
    a killed process left is taken over. A folder on `gs://` has no lock, nor has one on a file
    system without such locks, where that is logged; on NFS it also holds between hosts, on others
    it may not.
    """

    def __init__(self, folder: epath.PathLike, name: str = ".lock") -> None:
        """Takes nothing yet.

        Args:
          folder: local or `gs://`.
          name: of the file in it.
        """
        self._folder = epath.Path(folder)
        self._path = self._folder / name
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        """Takes the lock; makes the folder if need be.

        Raises:
          ValueError: another process holds it; the message says which, as far as is known.
          FileExistsError: a file of somebody else has the name of the lock file.
          OSError: the folder cannot be made, or the file not opened.
        """
        make_folder(self._folder)
        if is_remote(self._folder):
            return
        # One that was opened before its owner removed it locks nothing: open the next.
        while not self._is_there(file := self._open_locked()):
            file.close()
        if not os.path.isfile(self._path) or not self._is_ours(file):
            file.close()
            raise FileExistsError(
                f"{shown(self._path)} is there, and no lock file of this program: move it away"
            )
        when = time.strftime("%Y-%m-%d %H:%M:%S %Z")
        file.truncate(0)
        file.seek(0)
        file.write(_SIGNED + f"{os.getpid()} on {socket.gethostname()}, since {when}\n".encode())
        self._file = file

    def release(self) -> None:
        """Ends the lock, and removes its file; does nothing if it was not acquired."""
        if self._file is None:
            return
        if self._is_there(self._file):
            self._path.unlink()
        self._file.close()
        self._file = None

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _open_locked(self) -> BinaryIO:
        """Opens the file and locks it; raises ValueError if another process holds the lock."""
        # Of a link the target would be overwritten, and a pipe would be waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            file = os.fdopen(os.open(self._path, flags, 0o666), "r+b", buffering=0)
        except OSError as error:
            raise type(error)(
                f"{shown(self._folder)} cannot be locked: {shown(self._path.name)} in it cannot be "
                f"opened ({error.strerror}); make the folder writable, move away what has that "
                "name, or use another folder"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = file.read(200).decode(errors="replace").strip() or "not known which"
            file.close()
            raise ValueError(
                f"another process is at work in {self._folder} ({shown(owner)}): wait for its end, "
                "stop it, or use another folder"
            ) from error
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): see to it that no second process works in this folder",
                self._path,
                error.strerror,
            )
        return file

    @staticmethod
    def _is_ours(file: BinaryIO) -> bool:
        """Returns whether a lock file is empty, or was written here."""
        file.seek(0)
        content = file.read(200)
        return not content or content.startswith(_SIGNED)

    def _is_there(self, file: BinaryIO) -> bool:
        """Returns whether an open file is still the one that has the name of the lock file."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), os.stat(self._path))
        except FileNotFoundError:
            return False
