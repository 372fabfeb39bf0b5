"""The evaluator: runs a detector over a data set, scores it and draws samples."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

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

Detected = Literal["whole", "tiled", "both"]
"""What detections are of: whole images, tiles of them, or both, merged."""

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


class Scored(NamedTuple):
    """Detections and what they are worth.

    Attributes:
      metrics: by the names of `evaluation.METRICS`, COCO's, VOC's and the one that was asked for;
        each None for data without annotations.
      results: the detections in COCO's results format.
    """

    metrics: dict[str, dict[str, Any] | None]
    results: list[dict[str, Any]]

    def scalars(self, prefix: str = "") -> dict[str, float]:
        """Returns the figures of all metrics by name, `coco_AP`, ..., behind a prefix."""
        return {
            f"{prefix}{kind}_{name}": value
            for kind, values in self.metrics.items()
            for name, value in (values or {}).items()
            if isinstance(value, float)
        }


class Evaluation(NamedTuple):
    """What an evaluation found.

    Attributes:
      images: how many images there are.
      metrics: see `Scored`; of `Evaluator.detected`, these are of the first.
      results: the same.
      samples: pictures of predictions beside the ground truth, uint8 `[H, W, 3]`.
      score_threshold: detections of this score or less were dropped.
      others: what the rest of `Evaluator.detected` has found, by name.
    """

    images: ImageCounts
    metrics: dict[str, dict[str, Any] | None]
    results: list[dict[str, Any]]
    samples: list[UInt8[np.ndarray, "_ _ 3"]]
    score_threshold: float
    others: Mapping[str, Scored] = MappingProxyType({})

    @property
    def coco(self) -> dict[str, Any] | None:
        """COCO's metrics, whose AP decides which checkpoint is the best."""
        return self.metrics["coco"]

    def scalars(self) -> dict[str, float]:
        """Returns the figures by name, `coco_AP`, ..., of the others `tiled_coco_AP`, ..."""
        scalars = Scored(self.metrics, self.results).scalars()
        for name, scored in self.others.items():
            scalars |= scored.scalars(f"{name}_")
        return scalars


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator:
    """`evaluator(variables, step)` scores a detector on a data set.

    With several views, the detections of each are mapped back to the original image and merged by
    the task's own suppression. The views may also be of tiles, whose detections are mapped back to
    the image and merged by `merge`, by themselves or together with those of the whole image.
    Samples show the first view's.

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
      detected: what is scored, each by itself.
      tiles: those of the images of `source`, all of them, for `tiled` and `both`.
      merge: of the detections of tiles.
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
    detected: Sequence[Detected] = ("whole",)
    tiles: data.TiledSource | None = None
    merge: evaluation.BoxMerge = dataclasses.field(default_factory=evaluation.BoxMerge)
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
        samples: list[np.ndarray] = []
        collected = self._collect(variables, samples)
        listed = self.source.expected_images
        evaluated = len(self.source) - len(collected[self.detected[0]].missing())
        images = ImageCounts(listed, evaluated, listed - evaluated)
        logger.info(
            "evaluation at step %d: %d images (%s) in %s, %d view(s), "
            "%d of %d annotated unreadable",
            step,
            images.evaluated,
            ", ".join(self.detected),
            duration(time.perf_counter() - begin),
            len(self.views),
            images.unreadable,
            images.annotated,
        )
        data.check_evaluated(self.source, evaluated, self.max_unreadable)
        if not self.source.records.annotated:
            logger.info("%s has no annotations: there is nothing to score by", self.source.name)
        scored = {
            name: Scored(self._metrics(results), results)
            for name, results in ((name, found.results()) for name, found in collected.items())
        }
        self._log(scored)
        first = scored.pop(self.detected[0])
        return Evaluation(
            images,
            *first,
            samples=samples,
            score_threshold=self.task.score_threshold,
            others=MappingProxyType(scored),
        )

    def _metrics(self, results: list[dict[str, Any]]) -> dict[str, dict[str, Any] | None]:
        names = dict.fromkeys(("coco", "voc", self.metric))
        if not self.source.records.annotated:
            return {**names}
        return {
            name: evaluation.evaluate(
                name,
                self.source,
                results,
                max_detections=self.task.max_detections,
                area_ranges=self.area_ranges,
            )
            for name in names
        }

    def _log(self, scored: Mapping[str, Scored]) -> None:
        """Logs a table for each name, and one that compares them; and what found nothing."""
        figures = {
            name: metrics
            for name, of_one in scored.items()
            if (metrics := of_one.metrics[self.metric]) is not None
        }
        for name, metrics in figures.items():
            heading = f"{name}:\n" if len(scored) > 1 else ""
            logger.info("%s%s", heading, evaluation.format_metrics(metrics))
        if len(figures) > 1:
            logger.info("%s", evaluation.format_summaries(figures))
        for name, of_one in scored.items():
            if not of_one.results:
                heading = f"{name}: " if len(scored) > 1 else ""
                logger.info("%s%s", heading, evaluation.nothing_found(self.task.score_threshold))

    def _collect(
        self, variables: PyTree, samples: list[np.ndarray]
    ) -> dict[str, evaluation.DetectionCollector]:
        """Returns the detections on the original images, by what they are of."""
        whole: list[evaluation.DetectionCollector] = []
        tiled: list[evaluation.DetectionCollector] = []
        if {"whole", "both"} & {*self.detected}:
            whole = self._views(variables, self.source, samples)
        if {"tiled", "both"} & {*self.detected}:
            assert self.tiles is not None
            tiled = [
                evaluation.DetectionCollector.from_tiles(
                    self.source, view, self.tiles.image_index, self.tiles.windows
                )
                for view in self._views(variables, self.tiles, samples)
            ]
        join = evaluation.DetectionCollector.from_views
        collected: dict[str, evaluation.DetectionCollector] = {}
        for name in self.detected:
            if name == "whole":
                one = len(whole) == 1  # which the task's suppression has been through
                collected[name] = whole[0] if one else join(self.source, whole, self.task.select)
            else:
                views = [*whole, *tiled] if name == "both" else tiled
                collected[name] = join(self.source, views, self.merge.select)
        return collected

    def _views(
        self, variables: PyTree, source: data.Source, samples: list[np.ndarray]
    ) -> list[evaluation.DetectionCollector]:
        """Returns the detections of each view of the images of `source`.

        Samples of the first view are appended to `samples`, unless there are some.
        """
        wanted = 0 if samples else self.num_samples
        return [
            self._detect(variables, source, view, samples, wanted if number == 0 else 0)
            for number, view in enumerate(self.views)
        ]

    def _detect(
        self,
        variables: PyTree,
        source: data.Source,
        view: View,
        samples: list[np.ndarray],
        wanted: int,
    ) -> evaluation.DetectionCollector:
        """Returns the detections of one view; appends to `samples` until there are `wanted`."""
        collector = evaluation.DetectionCollector(source)
        levels = self.task.pyramid_levels
        rows_here = process_rows(self.mesh, self.batch_size)
        batches = data.eval_batches(
            source,
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
