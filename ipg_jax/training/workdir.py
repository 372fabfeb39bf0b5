"""The files of a workdir, besides metrics and checkpoints: written, read, restored."""

from __future__ import annotations

import difflib
import json
import logging
from typing import Any

from etils import epath

from ipg_jax import data, evaluation
from ipg_jax.training.checkpoint import Checkpoints, load_variables
from ipg_jax.training.evaluator import Evaluation
from ipg_jax.training.state import TrainState
from ipg_jax.types import PyTree
from ipg_jax.weights import SUFFIXES, Weights, load_weights

logger = logging.getLogger(__name__)


def write_run_files(workdir: epath.Path, config: dict[str, Any], source: data.Source) -> None:
    """Writes `config.json` and `classes.json`, and lists what changed since the last start.

    Args:
      workdir: folder of the run; made if need be.
      config: the run's, as plain JSON values.
      source: its training data.

    Raises:
      ValueError: the run was trained with other classes so far.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "config.json"
    if path.exists():
        before = json.dumps(json.loads(path.read_text()), indent=2, sort_keys=True).splitlines()
        after = json.dumps(config, indent=2, sort_keys=True).splitlines()
        changes = [
            line
            for line in difflib.unified_diff(before, after, "before", "now", n=0, lineterm="")
            if not line.startswith("@@")
        ]
        if changes:
            logger.warning("the config differs from %s:\n%s", path, "\n".join(changes))
    path.write_text(json.dumps(config, indent=2))

    classes = [
        {"id": number, "name": name}
        for number, name in zip(source.category_ids, source.class_names, strict=True)
    ]
    path = workdir / "classes.json"
    if path.exists() and json.loads(path.read_text()) != classes:
        raise ValueError(
            f"{source.name} has other classes than the run in {workdir}:\n"
            f"{path}: {json.loads(path.read_text())}\nnow: {classes}\nuse another workdir"
        )
    path.write_text(json.dumps(classes, indent=2))


def read_classes(workdir: epath.Path) -> list[dict[str, Any]]:
    """Returns the categories, `[{"id": ..., "name": ...}]`, that a run was trained with."""
    path = workdir / "classes.json"
    if not path.exists():
        raise FileNotFoundError(f"no {path}: was this run trained?")
    return json.loads(path.read_text())


def write_evaluation(
    workdir: epath.Path, step: int, found: Evaluation, source: data.Source
) -> None:
    """Writes `eval/metrics.json` and `eval/detections.json`.

    Of data without annotations, whose results are there to be uploaded, it also writes a copy
    named as COCO's server expects, such as `eval/detections_test-dev2017_<run>_results.json` of
    `image_info_test-dev2017.json`; the workdir gives the run's name.
    """
    folder = workdir / "eval"
    folder.mkdir(parents=True, exist_ok=True)
    evaluation.save_results(folder / "detections.json", found.results)
    figures = {
        "step": step,
        "images": found.images._asdict(),
        "coco": found.coco,
        "voc": found.voc,
    }
    (folder / "metrics.json").write_text(json.dumps(figures, indent=2))
    if not source.records.annotated:
        images = epath.Path(source.name).stem.removeprefix("image_info_")
        path = folder / f"detections_{images}_{workdir.name}_results.json"
        evaluation.save_results(path, found.results)
        logger.info("for upload: %s", path)


def load_initial(path: epath.PathLike) -> Weights:
    """Returns the weights to start from: of a workdir, `checkpoints/<step>` or a file of weights.

    Args:
      path: `config.init_from`.

    Raises:
      FileNotFoundError: there is no such file or checkpoint.
      ValueError: it is none of these.
    """
    path = epath.Path(path)
    if path.suffix in SUFFIXES and not path.is_dir():
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
    return Weights.of(load_variables(path), names)


def restore_variables(
    workdir: epath.Path, checkpoint: str, template: TrainState
) -> tuple[int, PyTree]:
    """Returns step and variables to evaluate with of a checkpoint: a step, `best` or `latest`.

    Args:
      workdir: folder of the run.
      checkpoint: which one.
      template: the state that it holds, and how its arrays are to lie on the devices.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: `checkpoint` is none of these, or the template has another structure.
    """
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    if checkpoint == "best":
        step = checkpoints.best if checkpoints.best is not None else checkpoints.latest
    elif checkpoint == "latest":
        step = checkpoints.latest
    elif checkpoint.isdigit():
        step = int(checkpoint)
    else:
        raise ValueError(f"--checkpoint is a step, best or latest, not {checkpoint!r}")
    state = checkpoints.restore(template, step)
    checkpoints.close()
    return int(state.step), state.eval_variables
