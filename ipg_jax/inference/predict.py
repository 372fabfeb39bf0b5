"""Prediction on image files: annotated pictures and one JSON file."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Sequence

import jax
import numpy as np
from etils import epath
from jaxtyping import Int, Int32, UInt8

from ipg_jax import visualize
from ipg_jax.files import read_regular
from ipg_jax.images import decode_image, padding_multiple, prepare_image
from ipg_jax.inference.inputs import find_inputs
from ipg_jax.inference.outputs import OutputFolder
from ipg_jax.inference.tiles import Found, detect_tiles, detect_whole
from ipg_jax.text import shown
from ipg_jax.training.runs import PredictRun
from ipg_jax.training.sharding import image_sharding, replicated
from ipg_jax.training.steps import of_mesh
from ipg_jax.training.trained import read_classes, restore_variables
from ipg_jax.types import Array, Detections, Pyramid, PyTree

logger = logging.getLogger(__name__)

MOST_CAPTIONS = 3000
"""Boxes of a picture beyond which none gets a caption: these would take longer than to detect."""


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


class _Finder:
    """A run's detector on its devices: finds the objects in an image, by tiles if the run says so.

    Attributes:
      shapes: those of the batches that it has compiled a program for.
    """

    def __init__(self, run: PredictRun, variables: PyTree):
        """Compiles nothing yet.

        Args:
          run: the detector and the devices.
          variables: `{"params": ..., "batch_stats": ...}`.
        """
        self.shapes: set[tuple[int, ...]] = set()
        self._run = run
        self._variables = variables
        levels = run.task.pyramid_levels
        self._prepare = functools.partial(
            prepare_image,
            image_size=run.image_size,
            levels=levels,
            pad_multiple=padding_multiple(levels, run.mesh.shape["space"]),
        )

        @functools.partial(jax.jit, out_shardings=replicated(run.mesh))
        def predict(variables: PyTree, pyramid: Pyramid, size: Int[Array, "b 2"]) -> Detections:
            with of_mesh(run.mesh):
                return run.task.predict(variables, pyramid, size)

        self._predict = predict

    def __call__(self, image: UInt8[np.ndarray, "h w 3"]) -> Found:
        """Returns the boxes in pixels of the image, RGB."""
        if self._run.tiles is None:
            return detect_whole(self._detect, self._prepare, image)
        return detect_tiles(
            self._detect, self._prepare, image, self._run.tiles, batch_size=self._run.batch_size
        )

    def _detect(self, pyramid: Pyramid, size: Int32[np.ndarray, "b 2"]) -> Detections:
        self.shapes.add(pyramid[0].shape)
        placed = jax.device_put(pyramid, image_sharding(self._run.mesh))
        return self._predict(self._variables, placed, size)


def _predict_files(
    run: PredictRun,
    variables: PyTree,
    files: Sequence[str],
    folder: OutputFolder,
    class_names: Sequence[str],
    threshold: float,
) -> list[str]:
    """Writes what is found in each file; returns those that could not be read."""
    detect = _Finder(run, variables)
    failed: list[str] = []
    seconds, timed = 0.0, 0
    for path in files:
        try:
            image = decode_image(read_regular(path), options=run.image_options)
        except (OSError, ValueError) as error:
            logger.error("%s: left out: %s", shown(path), error)
            failed.append(path)
            continue
        begin, compiled = time.perf_counter(), len(detect.shapes)
        boxes, scores, labels = detect(image)
        if len(detect.shapes) == compiled:  # the first of a shape compiles
            seconds, timed = seconds + time.perf_counter() - begin, timed + 1
        visible = scores >= threshold
        drawn = visualize.draw_boxes(
            image,
            boxes[visible].astype(np.float32),
            labels[visible],
            class_names,
            scores[visible],
            captions="auto" if visible.sum() <= MOST_CAPTIONS else "none",
        )
        picture = folder.add(path, boxes, scores, labels, drawn)
        logger.info("%s: %d objects, %s", shown(path), len(boxes), shown(picture))
    if timed:
        logger.info(
            "%.3f s an image (mean of %d, without the %d compiling ones)",
            seconds / timed,
            timed,
            len(detect.shapes),
        )
    return failed
