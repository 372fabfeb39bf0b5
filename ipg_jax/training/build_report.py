"""From a run's folder and config to what its report shows."""

from __future__ import annotations

import jax
from etils import epath
from ml_collections import ConfigDict

from ipg_jax import data
from ipg_jax.analysis.run_figures import RunFigures
from ipg_jax.evaluation.ground_truth import index_results
from ipg_jax.files import read_json
from ipg_jax.text import shown
from ipg_jax.training.build import build_task
from ipg_jax.training.build_checks import checked
from ipg_jax.training.build_data import check_annotated, log_report, open_source
from ipg_jax.training.build_summary import count_parameters
from ipg_jax.training.evaluate import trained_class_names
from ipg_jax.training.metrics import read_scalars

_REMEDY = "remove it, and python eval.py --workdir=... writes it again"


def read_run(workdir: epath.PathLike, config: ConfigDict) -> RunFigures:
    """Returns what a run's folder holds of its training and its last evaluation.

    Args:
      workdir: folder of the run.
      config: the run's.

    Raises:
      FileNotFoundError: the run was not evaluated yet.
      ValueError: a file of the run is damaged, or its evaluation had no annotations.
    """
    workdir, config = epath.Path(workdir), checked(config)
    folder = workdir / "eval"
    for name in ("metrics.json", "detections.json"):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"no {folder / name}: python eval.py --workdir={workdir} evaluates a checkpoint"
            )
    metrics = read_json(folder / "metrics.json", dict, _REMEDY)
    if not metrics.get("coco"):
        raise ValueError(
            f"{folder / 'metrics.json'} has no figures: the data were not annotated, or {_REMEDY}"
        )
    task = build_task(config)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    images = metrics.get("images") or {}
    return RunFigures(
        name=workdir.name,
        history=read_scalars(workdir),
        step=metrics["step"],
        metrics=metrics["coco"],
        results=read_json(folder / "detections.json", list, _REMEDY),
        parameters=count_parameters(variables),
        image_size=tuple(config.image_size),
        class_names=trained_class_names(workdir),
        data=metrics.get("data"),
        annotated=images.get("annotated"),
        evaluated=images.get("evaluated"),
        score_threshold=metrics.get("score_threshold", task.score_threshold),
        max_detections=task.max_detections,
    )


def open_evaluated(workdir: epath.PathLike, config: ConfigDict) -> data.Source:
    """Returns the data that a run is evaluated on, with the classes that it was trained with.

    Raises:
      OSError: a file that names the data cannot be read; the message begins with the field.
      ValueError: the data have no annotations or lack classes of the run.
    """
    source = open_source(config, train=False, class_names=trained_class_names(workdir))
    log_report(source)
    check_annotated(source)
    return source


def check_evaluated_on(workdir: epath.PathLike, run: RunFigures, source: data.Source) -> None:
    """Checks that the last evaluation of a run was of the data that its report reads.

    A run of an older version that does not name its data is known by their number of images and by
    the ids of its detections alone.

    Args:
      workdir: folder of the run, for messages.
      run: what it holds.
      source: the data of the report.

    Raises:
      ValueError: it was of other data.
    """
    folder = epath.Path(workdir) / "eval"
    remedy = (
        "give ipg-jax report the --config.data... flags of that evaluation, or run "
        f"ipg-jax eval --workdir={workdir} again with those of the report"
    )
    images = source.expected_images
    if run.data not in (None, source.name) or run.annotated not in (None, images):
        was = "other data" if run.data is None else shown(run.data)
        count = "" if run.annotated is None else f" ({run.annotated} images)"
        raise ValueError(
            f"{folder / 'metrics.json'} is of {was}{count}, and the report would read "
            f"{shown(source.name)} ({images} images): {remedy}"
        )
    try:
        index_results(source, run.results)
    except ValueError as error:
        raise ValueError(
            f"{folder / 'detections.json'} does not fit {shown(source.name)}, which the report "
            f"would read: {error}. It is of other data: {remedy}"
        ) from error
