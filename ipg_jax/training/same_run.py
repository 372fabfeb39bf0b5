"""Whether all processes of a run train the same, compared before the first step.

A process that trains something else than the others is no error to JAX: the sum of the gradients of
two data sets is a sum like any other, and a run with another length ends in a collective that waits
for a process which has left.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ipg_jax import data
from ipg_jax.training import hosts
from ipg_jax.training.plain_config import flat_fields

logger = logging.getLogger(__name__)

PLACES = frozenset(
    f"data.{name}"
    for name in (
        *("train_images", "train_annotations", "eval_images", "eval_annotations"),
        *("root", "data_dir"),
    )
)
"""Fields in which hosts may differ: the data may lie elsewhere on each. It is compared itself."""

BLOCK = 1024
"""Images of a source that are compared by one checksum."""


def check_same_run(config: Mapping[str, Any], sources: Mapping[str, data.Source]) -> None:
    """Compares the config and the data of all processes, before they begin.

    Where a host has something else to report of its data than process 0, its report is logged.

    Args:
      config: the run's, as plain JSON values.
      sources: its data by their purpose, such as `training`.

    Raises:
      ValueError: they differ; the message, the same in all processes, names each process that
        differs from process 0, its host, and the fields or the first image that it differs in.
    """
    if jax.process_count() == 1:
        return
    digests = {purpose: record_digests(source) for purpose, source in sources.items()}
    own = {
        "host": socket.gethostname(),
        "config": flat_fields(config),
        "sources": {
            purpose: {
                "length": len(source),
                "classes": list(source.class_names),
                "images": blocks(digests[purpose]),
                "report": source.report.lines(),
            }
            for purpose, source in sources.items()
        },
    }
    notes = [json.loads(text) for text in hosts.gather(json.dumps(own))]
    names = [f"process {process} ({note['host']})" for process, note in enumerate(notes)]
    problems = [
        f"{names[process]} has {difference}"
        for process, note in enumerate(notes)
        for difference in config_differences(notes[0]["config"], note["config"])
    ]
    for purpose, source in sources.items():
        theirs = [note["sources"][purpose] for note in notes]
        for process, note in enumerate(theirs):
            for line in note["report"]:
                if line not in theirs[0]["report"]:
                    logger.warning("%s, %s data: %s", names[process], purpose, line)
        problems += [
            f"{names[process]} has {what}={other} in the {purpose} data, process 0 has {first}"
            for process, note in enumerate(theirs)
            for what in ("length", "classes")
            if (other := note[what]) != (first := theirs[0][what])
        ]
        # All processes know the same notes: all take part in the second exchange, or none.
        at = [first_difference(theirs[0]["images"], note["images"]) for note in theirs]
        if any(block is not None for block in at):
            start = BLOCK * min(block for block in at if block is not None)
            files = zip(source.records.file_names, digests[purpose], strict=True)
            compared = list(itertools.islice(files, start, start + BLOCK))
            images = [json.loads(text) for text in hosts.gather(json.dumps(compared))]
            problems += [
                f"{names[process]} has other images than process 0 in the {purpose} data"
                + image_difference(images[0], images[process], start)
                for process, block in enumerate(at)
                if block is not None
            ]
    if problems:
        raise ValueError(
            "the processes of this run do not train the same:\n  " + "\n  ".join(problems) + "\n"
            "start all of them with the same command, on the same files"
        )


def config_differences(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Returns a text for each field that differs, but for those that say where data lie."""
    return [
        f"config.{field}={other.get(field)!r}, process 0 has {first.get(field)!r}"
        for field in sorted(first.keys() | other.keys())
        if field not in PLACES and first.get(field) != other.get(field)
    ]


def record_digests(source: data.Source) -> list[int]:
    """Returns a checksum for each image of a source: its name, size and objects."""
    records = source.records
    digests = []
    for i, (image_id, name) in enumerate(zip(records.image_ids, records.file_names, strict=True)):
        text = json.dumps([str(image_id), name, records.sizes[i].tolist()])
        digest = zlib.crc32(text.encode())
        objects = records.objects(i)
        for array in (objects.boxes, objects.labels, objects.ignore):
            digest = zlib.crc32(array.tobytes(), digest)
        digests.append(digest)
    return digests


def blocks(digests: Sequence[int]) -> list[int]:
    """Returns one checksum for each `BLOCK` images."""
    starts = range(0, len(digests), BLOCK)
    return [zlib.crc32(np.array(digests[i : i + BLOCK], np.uint32).tobytes()) for i in starts]


def first_difference(first: Sequence[Any], other: Sequence[Any]) -> int | None:
    """Returns the first position at which two sequences differ, or None."""
    pairs = itertools.zip_longest(first, other)
    return next((position for position, (a, b) in enumerate(pairs) if a != b), None)


def image_difference(
    first: Sequence[tuple[str, int]], other: Sequence[tuple[str, int]], start: int
) -> str:
    """Returns what the first image is that differs, given names and checksums of some of them.

    Args:
      first: those of process 0.
      other: those of another process.
      start: position of the first of these images in the data.
    """
    position = first_difference(first, other)
    if position is None:  # a third process differs earlier
        return ""
    here, there = (
        images[position][0] if position < len(images) else "none" for images in (first, other)
    )
    if here == there:
        return f": another size, other boxes or other labels of {here}"
    return f": as image {start + position} {there}, and process 0 {here}"
