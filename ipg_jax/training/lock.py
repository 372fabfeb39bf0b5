"""The lock of a workdir, which keeps a second run out of it."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import time
from typing import BinaryIO

from etils import epath

from ipg_jax.files import is_remote, make_folder

logger = logging.getLogger(__name__)


class WorkdirLock:
    """Holds `workdir/.lock` from `acquire` to the end of its context.

    The lock is the operating system's (`flock`), which ends with the process that holds it, however
    that ends: there are no stale ones, and the file may stay. A workdir on `gs://` has none, nor
    has one on a file system without such locks, where that is logged; on NFS it also holds between
    hosts, on others it may not.
    """

    def __init__(self, workdir: epath.Path) -> None:
        self._workdir = workdir
        self._file: BinaryIO | None = None

    def acquire(self) -> None:
        """Takes the lock; makes the workdir if need be.

        Raises:
          ValueError: another run holds it; the message says which, as far as is known.
          OSError: the folder cannot be made, or the file not opened.
        """
        make_folder(self._workdir)
        if is_remote(self._workdir):
            return
        path = self._workdir / ".lock"
        # Of a link the target would be overwritten, and a pipe would be waited for.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        self._file = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.seek(0)
            owner = self._file.read(200).decode(errors="replace").strip() or "not known which"
            self._file.close()
            self._file = None
            raise ValueError(
                f"another run is at work in {self._workdir} ({owner}): wait for its end, stop it, "
                "or use another workdir"
            ) from error
        except OSError as error:
            logger.warning(
                "%s cannot be locked (%s): see to it that no second run starts in this workdir",
                path,
                error.strerror,
            )

    def sign(self) -> None:
        """Writes down who holds the lock, for the message of the run that finds it taken."""
        if self._file is not None:
            self._file.truncate(0)
            when = time.strftime("%Y-%m-%d %H:%M:%S %Z")
            owner = f"process {os.getpid()} on {socket.gethostname()}, since {when}\n"
            self._file.write(owner.encode())
            self._file.flush()

    def __enter__(self) -> WorkdirLock:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
