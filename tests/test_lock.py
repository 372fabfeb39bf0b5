"""The lock of a folder: one holder at a time, and nothing left behind."""

import os
import subprocess
import sys

import pytest

from ipg_jax.lock import FolderLock


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    folder = tmp_path / "new"
    with FolderLock(folder) as lock:
        lock.acquire()
        owner = r"another process is at work .*new \(process \d+ on .*, since .*\): wait"
        with FolderLock(folder) as second, pytest.raises(ValueError, match=owner):
            second.acquire()
        with FolderLock(folder, ".another") as another:
            another.acquire()
            assert sorted(os.listdir(folder)) == [".another", ".lock"]
    assert os.listdir(folder) == []
    with FolderLock(folder) as lock:
        lock.acquire()


def test_the_lock_of_a_killed_process_is_no_obstacle(tmp_path):
    script = (
        "import fcntl, os, signal, sys; file = open(sys.argv[1], 'a+b'); "
        "fcntl.flock(file, fcntl.LOCK_EX); file.write(b'process 1'); file.flush(); "
        "print(flush=True); signal.pause()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path / ".lock"], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    with FolderLock(tmp_path) as lock:
        with pytest.raises(ValueError, match=r"at work in .*process 1"):
            lock.acquire()
        process.kill()
        process.wait()
        lock.acquire()
    assert os.listdir(tmp_path) == []
    process.stdout.close()


def test_a_file_that_was_opened_before_it_was_removed_locks_nothing(tmp_path, monkeypatch):
    """The first holder ends between the opening and the locking of the second."""
    first, second, third = (FolderLock(tmp_path) for _ in range(3))
    first.acquire()
    open_file = os.open

    def open_and_release(*arguments):
        descriptor = open_file(*arguments)
        monkeypatch.setattr(os, "open", open_file)
        first.release()
        return descriptor

    monkeypatch.setattr(os, "open", open_and_release)
    with second, third:
        second.acquire()
        with pytest.raises(ValueError, match="another process is at work"):
            third.acquire()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("mine"), "no lock file of this program: move it away"),
        (os.mkfifo, "no lock file of this program: move it away"),
        (lambda path: path.symlink_to("nowhere"), "symbolic link"),
        (os.mkdir, "Is a directory"),
    ],
)
def test_what_somebody_else_put_there_stays(tmp_path, make, message):
    make(tmp_path / ".lock")
    before = (tmp_path / ".lock").lstat()
    with FolderLock(tmp_path) as lock, pytest.raises(OSError, match=message) as caught:
        lock.acquire()
    assert ".lock" in str(caught.value)
    after = (tmp_path / ".lock").lstat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(NotADirectoryError, match="run is not a folder"):
        FolderLock(tmp_path / "run").acquire()


def test_a_folder_that_cannot_be_written_is_named_with_what_to_do(tmp_path, monkeypatch):
    def refuse(path, flags, mode=0o777):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError, match=r"cannot be locked: .*\(Permission denied\); make"):
        FolderLock(tmp_path).acquire()
