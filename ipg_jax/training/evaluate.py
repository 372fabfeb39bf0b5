"""Evaluating a checkpoint of a workdir."""

from __future__ import annotations

import logging

import jax
from etils import epath

from ipg_jax.training.evaluator import Evaluation
from ipg_jax.training.runs import EvalRun
from ipg_jax.training.workdir import read_classes, restore_variables, write_evaluation

logger = logging.getLogger(__name__)


def evaluate(run: EvalRun, workdir: epath.PathLike, checkpoint: str = "best") -> Evaluation:
    """Evaluates a checkpoint of `workdir` and writes `eval/metrics.json` and `detections.json`.

    Args:
      run: the evaluation; the data may differ from that of training.
      workdir: folder of the run.
      checkpoint: a step, `best` or `latest`.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the data has other classes than the run was trained with.
    """
    workdir = epath.Path(workdir)
    source = run.evaluator.source
    trained = [category["name"] for category in read_classes(workdir)]
    if list(source.class_names) != trained:
        raise ValueError(
            f"{workdir} was trained with the classes\n  {', '.join(trained)}\n"
            f"{source.name} has\n  {', '.join(source.class_names)}"
        )
    step, variables = restore_variables(workdir, checkpoint, run.template)
    found = run.evaluator(variables, step)
    if jax.process_index() == 0:
        write_evaluation(workdir, step, found, source)
        logger.info("wrote %s", workdir / "eval")
    return found
