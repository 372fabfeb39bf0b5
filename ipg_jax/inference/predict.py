"""Prediction on image files: annotated pictures and one JSON file."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from ipg_jax import data, evaluation, visualize
from ipg_jax.training.runs import PredictRun
from ipg_jax.training.sharding import image_sharding, replicated
from ipg_jax.training.workdir import read_classes, restore_variables

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

    Args:
      run: the detector and the devices (`build_runs.build_predict_run`).
      workdir: folder of the run.
      images: files to look at.
      out: folder for `<name>.png` and `detections.json`; made if need be.
      checkpoint: a step, `best` or `latest`.
      threshold: least score of a drawn box; the JSON has all detections.

    Returns:
      The files that could not be read; they are reported and left out.

    Raises:
      FileNotFoundError: there is no such checkpoint.
    """
    out = epath.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    categories = read_classes(epath.Path(workdir))
    names = [category["name"] for category in categories]
    step, variables = restore_variables(epath.Path(workdir), checkpoint, run.template)
    logger.info("checkpoint %d of %s", step, workdir)

    levels = run.task.pyramid_levels
    detect = jax.jit(run.task.predict, out_shardings=replicated(run.mesh))
    shapes: set[tuple[int, ...]] = set()
    seconds, timed = 0.0, 0
    failed: list[str] = []
    written: set[str] = set()
    document: dict[str, list[Any]] = {"images": [], "annotations": [], "categories": categories}
    for path in map(epath.Path, images):
        try:
            image = data.decode_image(path.read_bytes())
        except (OSError, ValueError) as error:
            logger.error("%s: left out: %s", path, error)
            failed.append(str(path))
            continue
        begin = time.perf_counter()
        pyramid, size, scale = data.prepare_image(
            image,
            image_size=run.image_size,
            levels=levels,
            pad_multiple=data.padding_multiple(levels, run.mesh.shape["space"]),
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
        number = len(document["images"]) + 1
        name = path.stem if path.stem not in written else f"{path.stem}_{number}"
        written.add(name)
        shown = scores >= threshold
        drawn = visualize.draw_boxes(
            image, boxes[shown].astype(np.float32), labels[shown], names, scores[shown]
        )
        visualize.save_image(out / f"{name}.png", drawn)
        height, width = image.shape[:2]
        document["images"].append(
            {"id": number, "file_name": str(path), "height": height, "width": width}
        )
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels, strict=True):
            x1, y1, x2, y2 = box
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": categories[label]["id"],
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                    "score": score,
                }
            )
        logger.info("%s: %d objects", path, len(boxes))
    (out / "detections.json").write_text(json.dumps(document))
    if timed:
        logger.info(
            "%.3f s an image (mean of %d, without the %d compiling ones)",
            seconds / timed,
            timed,
            len(shapes),
        )
    logger.info("wrote %d pictures and detections.json to %s", len(written), out)
    return failed
