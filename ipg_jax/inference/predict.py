"""Prediction on image files: annotated pictures and one JSON file."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import Int

from ipg_jax import evaluation, visualize
from ipg_jax.files import read_regular
from ipg_jax.images import decode_image, padding_multiple, prepare_image
from ipg_jax.inference.inputs import find_inputs
from ipg_jax.inference.outputs import OutputFolder
from ipg_jax.text import shown
from ipg_jax.training.runs import PredictRun
from ipg_jax.training.sharding import image_sharding, replicated
from ipg_jax.training.steps import of_mesh
from ipg_jax.training.trained import read_classes, restore_variables
from ipg_jax.types import Array, Detections, Pyramid, PyTree

logger = logging.getLogger(__name__)


def predict(
    run: PredictRun,
    workdir: epath.PathLike,
    images: Sequence[epath.PathLike],
    out: epath.PathLike,
    *,
    checkpoint: str = "best",
    threshold: float = 0.3,
) -> list[str]:
    """Detects objects in image files; writes annotated PNGs and one COCO-format JSON.

    No file is replaced but those that an earlier call wrote to `out`, and what is done when an
    exception or a signal ends the process is not lost (`outputs`).

    Args:
      run: the detector and the devices (`build_runs.build_predict_run`).
      workdir: folder of the run.
      images: files to look at, folders of such files, and patterns (`inputs.find_inputs`).
      out: folder for `<name>_detections.png` and `detections.json`; made if need be.
      checkpoint: a step, `best` or `latest`.
      threshold: least score of a drawn box; the JSON has all detections.

    Returns:
      What could not be read, of the files and of `images`; it is reported and left out.

    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: the workdir's classes are not as many as the model's, or another process is
        writing predictions to `out`.
      FileExistsError: `out` holds somebody else's `detections.json`.
      OSError: `out` cannot be made or written to.
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a score from 0 to 1, not {threshold}")
    categories = read_classes(epath.Path(workdir))
    names = [category["name"] for category in categories]
    if len(names) != run.task.num_classes:
        raise ValueError(
            f"{workdir}/classes.json names {len(names)} classes, the model of the run has "
            f"{run.task.num_classes}: remove this file, and start the training again, which "
            "writes it"
        )
    with OutputFolder(out, categories) as folder:
        inputs = find_inputs(images, ours=folder.pictures)
        folder.protect(inputs.files)
        for argument, reason in inputs.refused.items():
            logger.error("%s: left out: %s", shown(argument), reason)
        failed = list(inputs.refused)
        if not inputs.files:
            return failed
        _, variables = restore_variables(
            epath.Path(workdir), checkpoint, run.template, verify=run.verify_checkpoints
        )
        failed += _predict_files(run, variables, inputs.files, folder, names, threshold)
    if len(folder):
        logger.info("wrote %d pictures and detections.json to %s", len(folder), out)
    return failed


def _predict_files(
    run: PredictRun,
    variables: PyTree,
    files: Sequence[str],
    folder: OutputFolder,
    class_names: Sequence[str],
    threshold: float,
) -> list[str]:
    """Writes what is found in each file; returns those that could not be read."""

    @functools.partial(jax.jit, out_shardings=replicated(run.mesh))
    def detect(variables: PyTree, pyramid: Pyramid, image_size: Int[Array, "1 2"]) -> Detections:
        with of_mesh(run.mesh):
            return run.task.predict(variables, pyramid, image_size)

    levels = run.task.pyramid_levels
    failed: list[str] = []
    shapes: set[tuple[int, ...]] = set()
    seconds, timed = 0.0, 0
    for path in files:
        try:
            image = decode_image(read_regular(path), options=run.image_options)
        except (OSError, ValueError) as error:
            logger.error("%s: left out: %s", shown(path), error)
            failed.append(path)
            continue
        begin = time.perf_counter()
        pyramid, size, scale = prepare_image(
            image,
            image_size=run.image_size,
            levels=levels,
            pad_multiple=padding_multiple(levels, run.mesh.shape["space"]),
        )
        placed = jax.device_put(tuple(x[None] for x in pyramid), image_sharding(run.mesh))
        found = jax.device_get(detect(variables, placed, size[None]))
        if pyramid[0].shape in shapes:  # the first of a shape compiles
            seconds, timed = seconds + time.perf_counter() - begin, timed + 1
        shapes.add(pyramid[0].shape)

        keep = found.valid[0]
        scores, labels = found.scores[0][keep], found.labels[0][keep]
        boxes = evaluation.boxes_to_original(
            found.boxes[0][keep], scale, np.array(image.shape[:2], np.int32)
        )
        visible = scores >= threshold
        drawn = visualize.draw_boxes(
            image, boxes[visible].astype(np.float32), labels[visible], class_names, scores[visible]
        )
        picture = folder.add(path, boxes, scores, labels, drawn)
        logger.info("%s: %d objects, %s", shown(path), len(boxes), shown(picture))
    if timed:
        logger.info(
            "%.3f s an image (mean of %d, without the %d compiling ones)",
            seconds / timed,
            timed,
            len(shapes),
        )
    return failed
