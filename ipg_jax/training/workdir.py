"""The files of a workdir, besides metrics and checkpoints: compared and written."""

from __future__ import annotations

import difflib
import json
import logging
from typing import Any

from etils import epath

from ipg_jax import data, evaluation
from ipg_jax.files import (
    check_folder,
    is_regular,
    is_remote,
    make_folder,
    read_json,
    read_regular,
    write_whole,
)
from ipg_jax.training.evaluator import Evaluation
from ipg_jax.training.trained import read_classes

logger = logging.getLogger(__name__)


def check_workdir(workdir: epath.Path, config: dict[str, Any], source: data.Source) -> None:
    """Compares a run with what its workdir holds, and changes nothing there.

    Lists what changed in the config since the last start.

    Args:
      workdir: folder of the run.
      config: the run's, as plain JSON values.
      source: its training data.

    Raises:
      ValueError: the run was trained with other classes so far, or its checkpoints are gone, or a
        file is damaged; the message says what to do.
      NotADirectoryError: a file has the name of a folder that the run needs.
    """
    for name in ("checkpoints", "eval", "samples"):
        check_folder(workdir / name)
    path = workdir / "config.json"
    if path.exists():
        remedy = "remove this file, and the next start writes it again"
        before = json.dumps(read_json(path, dict, remedy), indent=2, sort_keys=True).splitlines()
        after = json.dumps(config, indent=2, sort_keys=True).splitlines()
        changes = [
            line
            for line in difflib.unified_diff(before, after, "before", "now", n=0, lineterm="")
            if not line.startswith("@@")
        ]
        if changes:
            logger.warning("the config differs from %s:\n%s", path, "\n".join(changes))
    path = workdir / "classes.json"
    if path.exists():
        trained, now = read_classes(workdir), class_list(source)
        if trained != now:
            raise ValueError(
                f"{source.name} has other classes than the run in {workdir}:\n"
                f"{path}: {trained}\nnow: {now}\nuse another workdir"
            )
    metrics = workdir / "metrics.jsonl"
    if metrics.exists() and not is_regular(metrics):
        raise OSError(f"{metrics} is not a regular file: move it away")
    # A store of objects has no empty folders, which a run has that was killed before its first
    # checkpoint.
    if (
        not is_remote(workdir)
        and not (workdir / "checkpoints").exists()
        and metrics.exists()
        and read_regular(metrics)
    ):
        raise ValueError(
            f"{workdir} holds the metrics of a run, but no folder of checkpoints to go on from: "
            f"put {workdir / 'checkpoints'} back, or use another workdir, or move {metrics} away "
            "to start again from scratch"
        )


def write_run_files(workdir: epath.Path, config: dict[str, Any], source: data.Source) -> None:
    """Writes `config.json` and `classes.json` of a run that `check_workdir` found to fit."""
    write_whole(workdir / "config.json", json.dumps(config, indent=2))
    write_whole(workdir / "classes.json", json.dumps(class_list(source), indent=2))


def class_list(source: data.Source) -> list[dict[str, Any]]:
    """Returns the categories of a source, `[{"id": ..., "name": ...}]`, in the labels' order."""
    return [
        {"id": number, "name": name}
        for number, name in zip(source.category_ids, source.class_names, strict=True)
    ]


def write_evaluation(
    workdir: epath.Path, step: int, found: Evaluation, source: data.Source
) -> None:
    """Writes `eval/metrics.json`, which names the data, and `eval/detections.json`.

    Of an evaluation of several (`Evaluator.detected`) these hold the first, and `metrics.json` the
    figures of the others under their names; their detections are in `detections_tiled.json`, say.
    Of data without annotations, whose results are there to be uploaded, it also writes a copy
    named as COCO's server expects, such as `eval/detections_test-dev2017_<run>_results.json` of
    `image_info_test-dev2017.json`; the workdir gives the run's name.
    """
    folder = workdir / "eval"
    make_folder(folder)
    evaluation.save_results(folder / "detections.json", found.results)
    for name, scored in found.others.items():
        evaluation.save_results(folder / f"detections_{name}.json", scored.results)
    others = {name: scored.metrics for name, scored in found.others.items()}
    figures = {"step": step, "data": source.name, "images": found.images._asdict()}
    figures |= {"score_threshold": found.score_threshold}
    figures |= {**found.metrics, **others}
    write_whole(folder / "metrics.json", json.dumps(figures, indent=2))
    if not source.records.annotated:
        images = epath.Path(source.name).stem.removeprefix("image_info_")
        path = folder / f"detections_{images}_{workdir.name}_results.json"
        evaluation.save_results(path, found.results)
        logger.info("for upload: %s", path)
