"""Evaluating a checkpoint of a workdir."""

from __future__ import annotations

import logging

import jax
from etils import epath

from ipg_jax.files import check_folder
from ipg_jax.text import shown
from ipg_jax.training.evaluator import Evaluation
from ipg_jax.training.runs import EvalRun
from ipg_jax.training.trained import read_classes, restore_variables
from ipg_jax.training.workdir import write_evaluation

logger = logging.getLogger(__name__)


def trained_class_names(workdir: epath.PathLike) -> list[str]:
    """Returns the classes of a run in the order of its labels.

    Raises:
      FileNotFoundError: the run has not begun.
    """
    return [category["name"] for category in read_classes(epath.Path(workdir))]


def evaluate(run: EvalRun, workdir: epath.PathLike, checkpoint: str = "best") -> Evaluation:
    """Evaluates a checkpoint of `workdir` and writes `eval/metrics.json` and `detections.json`.

    Args:
      run: the evaluation; the data may differ from that of training.
      workdir: folder of the run.
      checkpoint: a step, `best` or `latest`.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the data has other classes than the run was trained with, or a file of the run is
        damaged.
      NotADirectoryError: `eval` is a file.
    """
    workdir = epath.Path(workdir)
    check_folder(workdir / "eval")  # now, and not when all images are done
    source = run.evaluator.source
    trained = trained_class_names(workdir)
    if list(source.class_names) != trained:
        raise ValueError(
            f"{workdir} was trained with the classes\n  {', '.join(map(shown, trained))}\n"
            f"{shown(source.name)} has\n  {', '.join(map(shown, source.class_names))}"
        )
    step, variables = restore_variables(
        workdir, checkpoint, run.template, verify=run.verify_checkpoints
    )
    found = run.evaluator(variables, step)
    if jax.process_index() == 0:
        write_evaluation(workdir, step, found, source)
        logger.info("wrote %s", workdir / "eval")
    return found
