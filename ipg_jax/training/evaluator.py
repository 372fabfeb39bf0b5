"""The evaluator: runs a detector over a data set, scores it and draws samples."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from ipg_jax import data, evaluation, visualize
from ipg_jax.images import padding_multiple
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.metrics import duration
from ipg_jax.training.prefetch import prefetch_to_device
from ipg_jax.training.sharding import all_gather, process_rows, shard_batch
from ipg_jax.training.steps import PredictStep
from ipg_jax.types import Batch, Detections, PackedImage, PyTree

logger = logging.getLogger(__name__)

SAMPLE_SIDE = 480
"""Pixels of the short side of a sample picture, at least about this."""

SAMPLE_SCORE = 0.3
"""Least score of a box that is drawn in a sample."""


class View(NamedTuple):
    """One way to look at an image.

    Attributes:
      image_size: limits of the (short, long) side of the resized image, in pixels.
      flip: whether it is mirrored.
    """

    image_size: tuple[int, int]
    flip: bool


class ImageCounts(NamedTuple):
    """Of how many images the figures of an evaluation are.

    Attributes:
      annotated: images that the annotations list.
      evaluated: those that the detector saw.
      unreadable: those that are missing or cannot be read. Figures leave out those of them that the
        start of the program found; objects in the others count as not detected.
    """

    annotated: int
    evaluated: int
    unreadable: int


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      images: how many images there are.
      metrics: by the names of `evaluation.METRICS`, COCO's, VOC's and the one that was asked for;
        each None for data without annotations.
      results: the detections in COCO's results format.
      samples: pictures of predictions beside the ground truth, uint8 `[H, W, 3]`.
    """

    images: ImageCounts
    metrics: dict[str, dict[str, Any] | None]
    results: list[dict[str, Any]]
    samples: list[UInt8[np.ndarray, "_ _ 3"]]

    @property
    def coco(self) -> dict[str, Any] | None:
        """COCO's metrics, whose AP decides which checkpoint is the best."""
        return self.metrics["coco"]

    @property
    def voc(self) -> dict[str, Any] | None:
        """VOC's metrics."""
        return self.metrics["voc"]

    def scalars(self) -> dict[str, float]:
        """Returns the figures of all metrics by name, `coco_AP`, ..."""
        return {
            f"{kind}_{name}": value
            for kind, values in self.metrics.items()
            for name, value in (values or {}).items()
            if isinstance(value, float)
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """`evaluator(variables, step)` scores a detector on a data set.

    With several views, the detections of each are mapped back to the original image and merged by
    the task's own suppression. Samples show the first view's.

    Attributes:
      task: the detector.
      mesh: the devices.
      source: the data.
      views: the ways in which it looks at every image.
      batch_size: images of all devices together.
      metric: which of `evaluation.METRICS` is logged; COCO's and VOC's are always computed.
      area_ranges: size classes of the metrics that have some; None takes their own.
      max_unreadable: largest share of images that may be missing or unreadable.
      num_samples: how many pictures it draws.
      space_to_depth: whether the step reads packed pyramids.
      predict_step: see `steps.make_predict_step`.
    """

    task: DetectionTask
    mesh: Mesh
    source: data.Source
    views: Sequence[View]
    batch_size: int
    metric: str
    area_ranges: Mapping[str, tuple[float, float]] | None = None
    max_unreadable: float
    num_samples: int
    space_to_depth: bool = False
    predict_step: PredictStep

    def __call__(self, variables: PyTree, step: int) -> Evaluation:
        """Evaluates; every process takes part, and each returns the whole result.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`, divided over the mesh or not.
          step: the training step they are from, for the log.

        Raises:
          UnreadableImagesError: too many images are missing or unreadable.
        """
        begin = time.perf_counter()
        variables = all_gather(self.mesh, variables)  # once, and not for each batch
        seen: list[evaluation.DetectionCollector] = []
        samples: list[np.ndarray] = []
        for number, view in enumerate(self.views):
            wanted = self.num_samples if number == 0 else 0
            seen.append(self._detect(variables, view, samples, wanted))
        merged = evaluation.DetectionCollector.from_views(self.source, seen, self.task.select)
        results = merged.results()
        evaluated = len(self.source) - len(merged.missing())
        listed = self.source.expected_images
        images = ImageCounts(listed, evaluated, listed - evaluated)
        logger.info(
            "evaluation at step %d: %d images in %s, %d view(s), %d of %d annotated unreadable",
            step,
            images.evaluated,
            duration(time.perf_counter() - begin),
            len(self.views),
            images.unreadable,
            images.annotated,
        )
        data.check_evaluated(self.source, evaluated, self.max_unreadable)
        names = dict.fromkeys(("coco", "voc", self.metric))
        if not self.source.records.annotated:
            logger.info("%s has no annotations: there is nothing to score by", self.source.name)
            return Evaluation(images, dict.fromkeys(names), results, samples)
        metrics = {
            name: evaluation.evaluate(
                name,
                self.source,
                results,
                max_detections=self.task.max_detections,
                area_ranges=self.area_ranges,
            )
            for name in names
        }
        logger.info("%s", evaluation.format_metrics(metrics[self.metric]))
        return Evaluation(images, {**metrics}, results, samples)

    def _detect(
        self, variables: PyTree, view: View, samples: list[np.ndarray], wanted: int
    ) -> evaluation.DetectionCollector:
        """Returns the detections of one view; appends to `samples` until there are `wanted`."""
        collector = evaluation.DetectionCollector(self.source)
        levels = self.task.pyramid_levels
        rows_here = process_rows(self.mesh, self.batch_size)
        batches = data.eval_batches(
            self.source,
            batch_size=self.batch_size,
            image_size=view.image_size,
            levels=levels,
            space_to_depth=self.space_to_depth,
            flip=view.flip,
            pad_multiple=padding_multiple(levels, self.mesh.shape["space"]),
            rows=rows_here,
        )
        # Samples are drawn from the batch as it is on this host.
        for batch, placed in prefetch_to_device(batches, lambda x: (x, shard_batch(self.mesh, x))):
            found, rows = jax.device_get(self.predict_step(variables, placed))
            collector.add(found, rows.image_id, rows.scale, rows.weight, flipped=view.flip)
            here = jax.tree.map(lambda x: x[rows_here], found)
            for row in range(min(len(batch.weight), wanted - len(samples))):
                if batch.weight[row]:
                    samples.append(draw_sample(batch, here, row, self.source.class_names))
        return collector


def draw_sample(
    batch: Batch, found: Detections, row: int, class_names: Sequence[str]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the predictions for one row of a batch beside its ground truth.

    Args:
      batch: images and ground truth.
      found: the detections, in pixels of the network input.
      row: which image.
      class_names: by label.
    """
    first = batch.pyramid[0]
    pixels = first.pixels if isinstance(first, PackedImage) else first
    one: Batch = jax.tree.map(lambda x: np.asarray(x[row]), batch.replace(pyramid=(pixels,)))
    best: Detections = jax.tree.map(lambda x: np.asarray(x[row]), found)
    height, width = one.image_size
    image = np.asarray(one.pyramid[0])[:height, :width]

    # Small pictures are enlarged, so that captions do not cover what they name.
    zoom = max(1, round(SAMPLE_SIDE / min(height, width)))
    image = image.repeat(zoom, axis=0).repeat(zoom, axis=1)

    def draw(boxes: Any, labels: Any, valid: Any, scores: Any = None) -> np.ndarray:
        shown = None if scores is None else scores[valid]
        names = (*class_names, "ignored")  # what has the label of no class
        return visualize.draw_boxes(image, zoom * boxes[valid], labels[valid], names, shown)

    confident = best.valid & (best.scores >= SAMPLE_SCORE)
    predicted = draw(best.boxes, best.labels, confident, best.scores)
    truth = draw(one.boxes, one.labels, one.valid)
    return visualize.side_by_side(predicted, truth, ("prediction", "ground truth"))
