"""The files of one checkpoint: whether they are whole, and what its evaluation found.

`checkpoints/<step>/default` holds the state as Orbax writes it, and `checksums.json` the SHA-256 of
each of its files; checkpoints of version 0.1.0 have none. `checkpoints/<step>/metrics/metrics`
appears once that step was evaluated.
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import logging
import math
import zlib
from collections.abc import Iterator

from etils import epath
from orbax.checkpoint import path as orbax_path

from ipg_jax.files import is_regular, make_folder, read_json, write_whole

logger = logging.getLogger(__name__)

STATE = "default"
CHECKSUMS = "checksums.json"
_COMMITTED = "commit_success.txt"  # which Orbax writes last, after the checksums
_CHUNK = 2**22
_REMEDY = "the checkpoint cannot be trusted"
_NO_SCORE = "that step counts as not evaluated"


def find_steps(directory: epath.Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, oldest first, damaged ones too."""
    found = orbax_path.step.standard_name_format().find_all(directory)
    return sorted(checkpoint.step for checkpoint in found)


def write_checksums(state: epath.Path) -> None:
    """Writes the checksums of all files below `state`, a folder that nobody changes any more."""
    names = sorted(_files_below(state))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        digests = dict(zip(names, pool.map(lambda name: _sha256(state / name), names), strict=True))
    write_whole(state / CHECKSUMS, json.dumps(digests, indent=1))


def find_damage(checkpoint: epath.Path, *, checksums: bool = True) -> str:
    """Returns what is wrong with the files of a checkpoint, or an empty text.

    Args:
      checkpoint: the folder `<step>`.
      checksums: whether to read all files and compare their checksums, where it has them. Without,
        only what is missing or is not in the form of a checkpoint is found.

    Raises:
      OSError: a file is there and cannot be read.
    """
    state = checkpoint / STATE
    present = set(_files_below(state)) if state.is_dir() else set()
    if "_METADATA" not in present:
        return f"there is no {state / '_METADATA'}"
    try:
        read_json(state / "_METADATA", dict, _REMEDY)
        if not checksums:
            return ""
        if not (state / CHECKSUMS).exists():
            logger.warning(
                "%s has no checksums, as of version 0.1.0 or with config.verify_checkpoints=False: "
                "nothing would show that it is damaged",
                checkpoint,
            )
            return ""
        if not is_regular(state / CHECKSUMS):
            return f"{state / CHECKSUMS} is not a regular file"
        digests = read_json(state / CHECKSUMS, dict, _REMEDY)
    except ValueError as error:
        return str(error)
    if unknown := sorted(present - digests.keys() - {_COMMITTED}):
        return f"{state / CHECKSUMS} does not list {unknown[0]}"
    missing = [name for name in digests if name not in present]
    if missing:
        return f"there is no {state / missing[0]}"
    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: _sha256(state / name), digests)
        for name, digest in zip(digests, found, strict=True):
            if digest != digests[name]:
                return f"{state / name} is not as it was written (its SHA-256 differs)"
    return ""


def set_aside(checkpoint: epath.Path) -> epath.Path:
    """Moves a damaged checkpoint out of the folder of checkpoints; returns where to."""
    folder = checkpoint.parent.with_name("damaged")
    make_folder(folder)
    place = folder / checkpoint.name
    number = 1
    while place.exists():
        number += 1
        place = folder / f"{checkpoint.name}_{number}"
    return checkpoint.rename(place)


def write_score(checkpoint: epath.Path, score: float | None) -> None:
    """Notes that a checkpoint was evaluated, and the score that ranks it, if there is one."""
    path = _score_path(checkpoint)
    make_folder(path.parent)
    score = None if score is None else float(score)
    write_whole(path, json.dumps({"AP": score, "crc32": zlib.crc32(repr(score).encode())}))


def read_scores(directory: epath.Path, steps: list[int]) -> dict[int, float | None]:
    """Returns the scores of the checkpoints that were evaluated, where they have one.

    A damaged file is logged; its checkpoint counts as not evaluated.
    """
    scores: dict[int, float | None] = {}
    for step in steps:
        path = _score_path(directory / str(step))
        try:
            found = read_json(path, dict, _NO_SCORE)
            score = found.get("AP")
            if not (score is None or (isinstance(score, float) and math.isfinite(score))):
                raise ValueError(f"{path} is damaged, AP is {score!r}: {_NO_SCORE}")
            # Version 0.1.0 wrote no checksum, and {} where it had no score.
            if "crc32" in found and found["crc32"] != zlib.crc32(repr(score).encode()):
                raise ValueError(f"{path} is not as it was written: {_NO_SCORE}")
            scores[step] = score
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            logger.warning("%s", error)
    return scores


def read_digest(checkpoint: epath.Path) -> str:
    """Returns the `config_digest` that a checkpoint was written with, if that is known."""
    try:
        found = read_json(checkpoint / "_CHECKPOINT_METADATA", dict, "its config is not known")
    except (OSError, ValueError) as error:
        logger.warning("%s", error)
        return ""
    custom = found.get("custom_metadata")
    return str(custom.get("config_digest", "")) if isinstance(custom, dict) else ""


def _score_path(checkpoint: epath.Path) -> epath.Path:
    return checkpoint / "metrics" / "metrics"  # where Orbax writes what it knows of a checkpoint


def _files_below(folder: epath.Path, prefix: str = "") -> Iterator[str]:
    """Yields the paths of all regular files below a folder, but for the checksums."""
    for path in folder.iterdir():
        if path.is_dir():
            yield from _files_below(path, f"{prefix}{path.name}/")
        elif path.name != CHECKSUMS and is_regular(path):
            yield prefix + path.name


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
