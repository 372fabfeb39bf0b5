"""What is read of a trained run: its classes and the arrays of its checkpoints."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from etils import epath
from jax.sharding import Mesh

from ipg_jax.evaluation import Tiles
from ipg_jax.files import read_json
from ipg_jax.images import ImageOptions
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.state import TrainState
from ipg_jax.types import PyTree
from ipg_jax.weights import SUFFIXES, Weights, is_weights, load_weights, locate

logger = logging.getLogger(__name__)


class TrainedDetector(NamedTuple):
    """A detector as a run left it, and how it looks at images.

    Attributes:
      task: the detector.
      variables: `{"params": ..., "batch_stats": ...}`.
      categories: the classes by label, `{"id": ..., "name": ...}`, as the training data has them.
      mesh: devices of this process.
      image_size: limits of the (short, long) side of resized images, in pixels.
      image_options: how the run reads image files.
      tiles: how images are cut into tiles, and their boxes merged; None for whole images alone.
      batch_size: images or tiles that the devices look at together.
      thresholds: the score of best F1 of each class by the run's report, None for a class without
        one; None if there is no report of this checkpoint.
    """

    task: DetectionTask
    variables: PyTree
    categories: list[dict[str, Any]]
    mesh: Mesh
    image_size: tuple[int, int]
    image_options: ImageOptions
    tiles: Tiles | None
    batch_size: int
    thresholds: tuple[float | None, ...] | None


def read_classes(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the categories, `[{"id": ..., "name": ...}]`, that a run was trained with.

    Raises:
      FileNotFoundError: there is no `classes.json`.
      ValueError: it is damaged.
    """
    path = workdir / "classes.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: was this run trained?")
    remedy = "remove this file, and start the training again, which writes it"
    classes = read_json(path, list, remedy)
    try:
        return check_categories(classes)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, {error}: {remedy}") from error


def check_categories(categories: list[Any]) -> list[dict[str, Any]]:
    """Returns categories of `{"id": ..., "name": ...}`, or raises ValueError."""
    for entry in categories:
        if (
            not isinstance(entry, dict)
            or type(entry.get("id")) not in (int, str)
            or not isinstance(entry.get("name"), str)
        ):
            raise ValueError(f'it holds {entry!r} and not {{"id": 1, "name": "a name"}}')
    return categories


def read_thresholds(
    workdir: epath.Path, step: int, class_names: Sequence[str]
) -> tuple[float | None, ...] | None:
    """Returns the best thresholds of the classes, as the run's report found them.

    Args:
      workdir: folder of the run.
      step: the checkpoint; a report of another one says nothing of its scores.
      class_names: the classes by label.

    Returns:
      The threshold of each class, None for one of which nothing was found; None if there is no
      report of this checkpoint, with a warning if there is one of another.

    Raises:
      ValueError: the file is damaged.
    """
    path = workdir / "report" / "thresholds.json"
    if not path.exists():
        return None
    remedy = "remove it, and ipg-jax report --workdir=... writes it again"
    report = read_json(path, dict, remedy)
    if report.get("step") != step:
        logger.warning(
            "%s is of step %s, not of checkpoint %d: its thresholds are not used. Evaluate this "
            "checkpoint, and make its report",
            *(path, report.get("step"), step),
        )
        return None
    try:
        found = [report["classes"][name]["threshold"] for name in class_names]
        return check_thresholds(found, len(class_names))
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}): {remedy}") from error


def check_thresholds(thresholds: Sequence[Any], num_classes: int) -> tuple[float | None, ...]:
    """Returns a threshold for each class, None for one without, or raises ValueError."""
    fine = all(x is None or (isinstance(x, int | float) and 0 <= x <= 1) for x in thresholds)
    if len(thresholds) != num_classes or not fine:
        raise ValueError(
            f"thresholds are {num_classes} scores from 0 to 1, or null, not {thresholds}"
        )
    return tuple(thresholds)


def load_initial(path: epath.PathLike) -> Weights:
    """Returns the weights to start from: of a workdir, `checkpoints/<step>` or a file of weights.

    Args:
      path: `config.init_from`; also the name of a detector (`weights.known_models`).

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
      ValueError: it is none of these.
    """
    path = locate(path)
    if is_weights(path):
        return load_weights(path)
    kinds = (
        "a workdir (its best checkpoint), checkpoints/<step> of one, or a file of weights "
        f"({', '.join(SUFFIXES)})"
    )
    if not path.exists():
        raise FileNotFoundError(f"there is no config.init_from={path}; it is {kinds}")
    is_workdir = (path / "checkpoints").is_dir()
    if not is_workdir and not (path.name.isdigit() and (path / "default").is_dir()):
        raise ValueError(f"config.init_from={path} is not {kinds}")
    workdir = path if is_workdir else path.parent.parent
    known = (workdir / "classes.json").exists()
    names = [category["name"] for category in read_classes(workdir)] if known else []
    from ipg_jax.training.checkpoint import load_variables  # as in `restore_variables`

    return Weights.of(load_variables(path), names)


def restore_variables(
    workdir: epath.Path, checkpoint: str, template: TrainState, *, verify: bool = True
) -> tuple[int, PyTree]:
    """Returns step and variables to evaluate with of a checkpoint: a step, `best` or `latest`.

    Args:
      workdir: folder of the run.
      checkpoint: which one.
      template: the state that it holds, and how its arrays are to lie on the devices.
      verify: whether to compare checksums.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: `checkpoint` is none of these, the template has another structure, or the
        checkpoint is damaged.
    """
    # Orbax takes longer to import than a detector that is a file, which needs none, takes to load.
    from ipg_jax.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True, verify=verify)
    if checkpoint == "best":
        step = checkpoints.best if checkpoints.best is not None else checkpoints.latest
    elif checkpoint == "latest":
        step = checkpoints.latest
    elif re.fullmatch("[0-9]{1,18}", checkpoint):
        step = int(checkpoint)
    else:
        raise ValueError(f"--checkpoint is a step, best or latest, not {checkpoint!r}")
    state = checkpoints.restore(template, step)
    checkpoints.close()
    newest = checkpoint == "best" and checkpoints.best is None
    logger.info(
        "checkpoint %d of %s%s",
        state.step,
        workdir,
        ", the newest: none was evaluated" if newest else "",
    )
    return int(state.step), state.eval_variables
