"""Random access to the serialised examples of a prepared TFDS data set."""

from __future__ import annotations

import concurrent.futures
import os
import struct
import threading
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import google_crc32c
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource

from ipg_jax.data.quiet_tensorflow import tf
from ipg_jax.files import check_regular
from ipg_jax.text import shown


@runtime_checkable
class Examples(Protocol):
    """Serialised examples by position; thread-safe."""

    def __len__(self) -> int: ...

    def __getitem__(self, position: int) -> bytes: ...


def open_split(info: tfds.core.DatasetInfo, split: str, threads: int) -> Examples:
    """Opens the files of a split.

    Args:
      info: of the data set.
      split: its name, sliced or not.
      threads: how many files are opened at a time.

    Raises:
      OSError: a file cannot be read.
      ValueError: there is no such split, a file is damaged, or the format is not known.
    """
    instructions = info.splits[split].file_instructions
    for instruction in instructions:
        check_regular(instruction.filename)
    match info.file_format.value:
        case "array_record":
            return ArrayRecordDataSource(instructions)
        case "tfrecord":
            return _TfRecords(instructions, threads)
        case other:
            raise ValueError(
                f"{info.full_name} is stored as {other}; array_record and tfrecord can be read"
            )


class _TfRecords:
    """Random access to the records of a split stored as tfrecord.

    A record is its length (8 bytes, little endian), a checksum of the length (4 bytes), the data
    and a checksum of the data (4 bytes), so the lengths alone say where every record begins.
    Format: https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """

    _HEADER = 12
    _FOOTER = 4

    def __init__(self, instructions: Sequence[Any], threads: int):
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            shards = list(pool.map(self._index, instructions))
        self._records = [record for shard in shards for record in shard]
        self._open = threading.local()

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, position: int) -> bytes:
        path, offset, length = self._records[position]
        # A file object has one position: every thread gets its own.
        files = self._open.__dict__
        if path not in files:
            files[path] = tf.io.gfile.GFile(path, "rb")
        files[path].seek(offset)
        record = files[path].read(length + self._FOOTER)
        if not _is_sound(record[:length], record[length:]):
            raise ValueError(f"the record at byte {offset} of {shown(path)} has another checksum")
        return record[:length]

    @classmethod
    def _index(cls, instruction: Any) -> list[tuple[str, int, int]]:
        """Path, offset and length of the records that one file gives to the split."""
        path = os.fspath(instruction.filename)
        records = []
        try:
            with tf.io.gfile.GFile(path, "rb") as file:
                end, offset = file.size(), 0
                for _ in range(instruction.skip + instruction.take):
                    file.seek(offset)
                    header = file.read(cls._HEADER)
                    start = offset + cls._HEADER
                    offset = end + 1
                    if _is_sound(header[:8], header[8:]):
                        offset = start + struct.unpack("<Q", header[:8])[0] + cls._FOOTER
                    if offset > end:
                        raise ValueError(
                            f"{shown(path)} is damaged: the record at byte {start - cls._HEADER} "
                            "is cut off or has a wrong length; prepare the data set again"
                        )
                    records.append((path, start, offset - cls._FOOTER - start))
        except tf.errors.OpError as error:
            raise OSError(f"cannot read {shown(path)}: {shown(error.message)}") from error
        return records[instruction.skip :]


def _is_sound(data: bytes, checksum: bytes) -> bool:
    """Whether a checksum (CRC-32C, masked as the format says) is that of the data."""
    crc = google_crc32c.value(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return checksum == struct.pack("<I", masked)
