"""From a detector to programs that run without its model, and how far they agree with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from ipg_jax import ops
from ipg_jax.images import make_geometry
from ipg_jax.inference.detector import Detector
from ipg_jax.inference.exported import ExportedDetector
from ipg_jax.inference.tiles import Detect
from ipg_jax.inference.views import Found, found_in, stack_views, whole_view
from ipg_jax.tasks import DetectionTask
from ipg_jax.types import Array, Size

PLATFORMS = ("cpu", "cuda", "tpu")
"""What programs are lowered for, unless said otherwise."""


def export_detector(
    detector: Detector, *, platforms: Sequence[str] = PLATFORMS
) -> ExportedDetector:
    """Returns programs for the sizes of images that a detector sees of whole pictures.

    There is one for landscape and one for portrait pictures, or one for both, where both limits of
    `image_size` are equal. They take batches of any size, make the image pyramid, normalise, detect
    and suppress. They hold the reference form of all kernels, which every platform runs.

    Args:
      detector: the detector, of one device; of its tiles nothing is exported.
      platforms: as `jax.export` names them, `cpu`, `cuda`, `rocm` or `tpu`.

    Raises:
      ValueError: the detector is an exported one, or there is no such platform.
    """
    if unknown := sorted({*platforms} - {"cpu", "cuda", "rocm", "tpu"}):
        raise ValueError(f"platforms are cpu, cuda, rocm and tpu, not {', '.join(unknown)}")
    detect, weights = detection_program(detector)
    program = jax.export.export(jax.jit(detect), platforms=tuple(platforms))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), weights)
    (batch,) = jax.export.symbolic_shape("b")
    task = trained_task(detector)
    return ExportedDetector(
        programs={
            (height, width): program(
                shapes,
                jax.ShapeDtypeStruct((batch, height, width, 3), jnp.uint8),
                jax.ShapeDtypeStruct((batch, 2), jnp.int32),
            )
            for height, width in whole_sizes(detector)
        },
        weights=weights,
        class_names=detector.class_names,
        category_ids=detector.category_ids,
        thresholds=tuple(detector.thresholds.tolist()),
        image_size=detector.image_size,
        pyramid_levels=task.pyramid_levels,
        max_detections=task.max_detections,
        image_options=detector.image_options,
    )


Weights: TypeAlias = Mapping[str, Array]
"""Arrays by the paths of the variables that they are."""


def detection_program(
    detector: Detector,
) -> tuple[Callable[[Weights, Array, Array], dict[str, Array]], Weights]:
    """Returns a function of arrays alone, and the weights that it takes.

    From the weights, uint8 images `[b, h, w, 3]` and int32 `[b, 2]`, the height and width of each
    one's content, it makes the fields of `Detections`. It holds the reference form of all kernels.

    Args:
      detector: the detector.

    Raises:
      ValueError: the detector is an exported one.
    """
    task = dataclasses.replace(trained_task(detector), kernels="reference")
    flat = flax.traverse_util.flatten_dict(jax.device_get(detector.variables), sep="/")
    types = {name: x.dtype for name, x in flat.items()}

    def detect(weights: Weights, images: Array, image_size: Array) -> dict[str, Array]:
        typed = {name: jnp.asarray(x, types[name]) for name, x in weights.items()}
        variables = {"batch_stats": {}} | flax.traverse_util.unflatten_dict(typed, sep="/")
        pyramid = ops.image_pyramid(images, task.pyramid_levels, image_size)
        found = task.predict(variables, pyramid, image_size)
        return {field.name: getattr(found, field.name) for field in dataclasses.fields(found)}

    # NumPy's files know no bfloat16.
    return detect, {
        name: x.astype(np.float32) if x.dtype == jnp.bfloat16 else x for name, x in flat.items()
    }


def trained_task(detector: Detector) -> DetectionTask:
    """Returns the task of a detector.

    Raises:
      ValueError: the detector is an exported one, which has none.
    """
    if isinstance(detector.task, ExportedDetector):
        raise ValueError("the detector is exported already: name the run that it is of")
    return detector.task


def whole_sizes(detector: Detector) -> tuple[Size, ...]:
    """Returns the height and width of the images that a detector sees of whole pictures.

    Landscape comes first; there is one size where both are the same.
    """
    return make_geometry(detector.image_size, detector.task.pyramid_levels).canvases


class Difference(NamedTuple):
    """How far two detectors are apart on an image.

    Attributes:
      objects: how many were compared.
      score: the largest difference of a score.
      box: the largest distance that a corner has moved along x or y, as a share of the box's longer
        side (of a pixel, where that is shorter).
      pixels: the same in pixels of the image.
      unmatched: objects of either that the other has no like of with the same label.
    """

    objects: int
    score: float
    box: float
    pixels: float
    unmatched: int

    @property
    def largest(self) -> float:
        """The larger one of `score` and `box`."""
        return float(np.maximum(self.score, self.box))


def differences(
    detector: Detector, detect: Detect, image: UInt8[np.ndarray, "h w 3"]
) -> Difference:
    """Compares what a detector and its exported programs find in an image.

    Args:
      detector: the detector.
      detect: the programs.
      image: RGB.
    """
    view = whole_view(detector.prepare_image, image)
    (exported,) = found_in([view], detect(*stack_views([view], 1)))
    own = detector.predict(image, threshold=0.0, tiles=False)
    return compare(Found(own.boxes.astype(np.float64), own.scores, own.labels), exported)


def compare(a: Found, b: Found, *, best: int = 20) -> Difference:
    """Compares the best objects of either with all of the other.

    Each is compared with the object of its class that is most like it; one without any counts as
    moved by its whole size.

    Args:
      a: what one detector found in an image, best first.
      b: what another one found.
      best: how many of each are looked up in the other.
    """
    rows = np.concatenate([_nearest(a, b, best), _nearest(b, a, best), np.zeros((1, 4))])
    score, box, pixels, _ = rows.max(axis=0).tolist()
    objects = min(best, max(len(a.scores), len(b.scores)))
    return Difference(objects, score, box, pixels, int(rows[:, 3].sum()))


def _nearest(a: Found, b: Found, best: int) -> Float[np.ndarray, "n 4"]:
    """How far each of the best objects of `a` is from its like in `b`.

    Returns:
      For each the difference of the scores, the distance of the boxes as a share of the side and in
      pixels, and 1 if there is no like, else 0.
    """
    boxes, scores = a.boxes[:best], a.scores[:best]
    side = np.maximum((boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0), 1)
    pixels = np.abs(boxes[:, None] - b.boxes).max(axis=2, initial=0)
    moved = pixels / side[:, None]
    scored = np.abs(scores[:, None] - b.scores)
    apart = np.maximum(moved, scored)
    apart = np.where(a.labels[:best, None] == b.labels, apart, np.inf)
    one = np.ones(len(scores))
    rows = np.stack([scored, moved, pixels, np.zeros_like(moved)], axis=2)
    nothing = np.stack([scores, one, side, one], axis=1)
    like = np.concatenate([apart, one[:, None]], axis=1).argmin(axis=1)
    return np.concatenate([rows, nothing[:, None]], axis=1)[np.arange(len(scores)), like]
