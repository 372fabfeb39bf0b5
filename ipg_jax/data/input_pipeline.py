"""Batches for training and evaluation, built by tf.data from any source.

Global batch `k` is a pure function of (source, seed, k) whatever the number of processes: a process
reads only its rows of each batch, and a run resumes at any step at no cost.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from jaxtyping import Float

from ipg_jax.data.augment import Example, augment, check_augmentations, mirror
from ipg_jax.data.sampler import BatchSampler, SequentialSampler, augmentation_rng, flips
from ipg_jax.data.sources.base import Objects, Source
from ipg_jax.data.transforms import pad_objects, padded_pyramid
from ipg_jax.images import Geometry, make_geometry, pixels_per_original
from ipg_jax.text import shown
from ipg_jax.types import IMAGE_BLOCK, Batch, ImageId, PackedImage, Size

# TensorFlow would otherwise take the memory of every GPU away from JAX.
tf.config.set_visible_devices([], "GPU")

logger = logging.getLogger(__name__)


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    image_size: Size,
    levels: int,
    start_step: int = 0,
    max_boxes: int | None = None,
    flip: float = 0.5,
    augmentations: Sequence[str] = (),
    repeats: Float[np.ndarray, " n"] | None = None,
    pad_multiple: int = 0,
    space_to_depth: bool = False,
    rows: Sequence[int] | None = None,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Endless shuffled batches; the rows of this process, as NumPy arrays.

    Args:
      source: the data set.
      batch_size: global number of images in a batch `B`.
      seed: decides order and augmentation.
      image_size: limits of the (short, long) side of the resized images.
      levels: number of levels of the pyramid.
      start_step: the step of the first batch, to resume a run.
      max_boxes: rows of ground truth for each image at most; by default, and where they need fewer,
        as many as the data need. Objects beyond it are cut off, which is logged.
      flip: probability of mirroring an image.
      augmentations: names of further random changes, in their order (`data.augment`).
      repeats: how often each image comes in an epoch, for example `repeat_factors`; once by
        default.
      pad_multiple: see `make_geometry`.
      space_to_depth: whether levels are delivered packed (`types.PackedImage`), for TPUs.
      rows: which rows of each batch this process produces, in this order; all by default.
      prefetch: number of batches prepared in advance.

    Returns:
      A generator whose `j`-th item holds the `rows` of batch `start_step + j`. An image that
      cannot be read is blank, has no objects and weight 0. Closing the generator stops the
      pipeline.

    Raises:
      ValueError: the sizes contradict each other, or there is no such augmentation.
      RuntimeError: (of the generator) an image or an augmentation failed in another way than
        `Source.load_image` allows; the message names the image.
    """
    check_augmentations(augmentations)

    def random_changes(epoch: int, index: int, example: Example) -> Example:
        if flips(seed, epoch, index, flip):
            example = mirror(example)
        return augment(example, augmentations, augmentation_rng(seed, epoch, index))

    geometry = make_geometry(image_size, levels, pad_multiple, source.tile)
    sampler = BatchSampler(geometry.buckets(source.records.sizes), batch_size, seed, repeats)
    return _batches(
        source,
        sampler,
        steps=range(start_step, 2**31),
        rows=range(batch_size) if rows is None else rows,
        geometry=geometry,
        space_to_depth=space_to_depth,
        max_boxes=_resolve_max_boxes(source, max_boxes),
        augment=random_changes,
        prefetch=prefetch,
    )


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: Size,
    levels: int,
    max_boxes: int | None = None,
    flip: bool = False,
    pad_multiple: int = 0,
    space_to_depth: bool = False,
    rows: Sequence[int] | None = None,
    prefetch: int = 2,
) -> Generator[Batch, None, None]:
    """Every image once, in the order of the source within each aspect-ratio bucket.

    All processes get equally many batches. The last batch of a bucket is filled up with blank
    images of `image_id` 0 and weight 0. `flip` mirrors every image and its objects. See
    `train_batches` for the other arguments and errors.
    """
    geometry = make_geometry(image_size, levels, pad_multiple, source.tile)
    sampler = SequentialSampler(geometry.buckets(source.records.sizes), batch_size)
    return _batches(
        source,
        sampler,
        steps=range(len(sampler)),
        rows=range(batch_size) if rows is None else rows,
        geometry=geometry,
        space_to_depth=space_to_depth,
        max_boxes=_resolve_max_boxes(source, max_boxes),
        augment=lambda epoch, index, example: mirror(example) if flip else example,
        prefetch=prefetch,
    )


def global_batch_records(
    source: Source,
    step: int,
    *,
    batch_size: int,
    seed: int,
    image_size: Size,
    repeats: Float[np.ndarray, " n"] | None = None,
) -> list[tuple[ImageId, str]]:
    """Image ids and file names of global training batch `step`, for error messages.

    The arguments are those of `train_batches`; nothing is read.
    """
    geometry = make_geometry(image_size, levels=1, tile=source.tile)
    buckets = geometry.buckets(source.records.sizes)
    indices = BatchSampler(buckets, batch_size, seed, repeats).batch(step).indices
    records = source.records
    return [(records.image_ids[i], records.file_names[i]) for i in indices]


def _batches(
    source: Source,
    sampler: BatchSampler | SequentialSampler,
    *,
    steps: range,
    rows: Sequence[int],
    geometry: Geometry,
    space_to_depth: bool,
    max_boxes: int,
    augment: Callable[[int, int, Example], Example],
    prefetch: int,
) -> Generator[Batch, None, None]:
    """The given rows of the given steps of a sampler."""
    failures: list[tuple[int, Exception]] = []

    def load(position: np.int64) -> list[np.ndarray]:
        """The values of `_FIELDS` for one image, `position` counted in images of this process."""
        step, row = divmod(int(position), len(rows))
        bucket, indices, epochs = sampler.batch(step)
        index, epoch = int(indices[rows[row]]), int(epochs[rows[row]])
        change = functools.partial(augment, epoch, index)
        try:
            example = _example(source, index, change, bucket, geometry, max_boxes)
        except Exception as error:
            failures.append((index, error))
            raise RuntimeError("see failures") from error  # a StopIteration would end the data
        return [example[name] for name in _FIELDS]

    @tf.autograph.experimental.do_not_convert  # its loops are Python's, not the graph's
    def build(position: tf.Tensor) -> dict[str, Any]:
        values = tf.numpy_function(load, [position], list(_FIELDS.values()), stateful=False)
        element = dict(zip(_FIELDS, values, strict=True))
        image, canvas = element.pop("image"), element.pop("canvas")
        pyramid = padded_pyramid(image, element["image_size"], canvas, geometry.levels)
        if space_to_depth:
            pyramid = tuple(tf.nn.space_to_depth(x[None], IMAGE_BLOCK)[0] for x in pyramid)
        return {"pyramid": pyramid, **element}

    # An image is the unit of parallel work, so operations inside one stay on their thread.
    options = tf.data.Options()
    options.deterministic = True
    options.threading.max_intra_op_parallelism = 1
    dataset = (
        tf.data.Dataset.range(steps.start * len(rows), steps.stop * len(rows))
        .map(build, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(len(rows), drop_remainder=True)
        .prefetch(prefetch)
        .with_options(options)
    )

    def iterate() -> Generator[Batch, None, None]:
        elements = dataset.as_numpy_iterator()
        try:
            for element in elements:
                pyramid = element.pop("pyramid")
                if space_to_depth:
                    pyramid = tuple(map(PackedImage, pyramid))
                yield Batch(pyramid=pyramid, **element)
        except tf.errors.OpError:
            # What Python raised in a thread of tf.data comes out as one of TensorFlow's errors.
            if not failures:
                raise
            index, cause = failures[0]
            file_name = shown(source.records.file_names[index])
            raise RuntimeError(
                f"{source.name}: {file_name}: {type(cause).__name__}: {cause}"
            ) from cause

    batches = iterate()
    _running.add(batches)
    return batches


_running: weakref.WeakSet[Generator[Batch, None, None]] = weakref.WeakSet()


@atexit.register
def _stop_running() -> None:
    """Ends the pipelines that are still in use when the program ends.

    Their threads call Python, which they no longer can once the interpreter shuts down; the
    interpreter, in turn, would wait for these threads for ever.
    """
    for batches in list(_running):
        batches.close()


_FIELDS = {
    "image": tf.uint8,
    "canvas": tf.int32,
    "boxes": tf.float32,
    "labels": tf.int32,
    "valid": tf.bool,
    "ignore": tf.bool,
    "image_size": tf.int32,
    "scale": tf.float32,
    "image_id": tf.int32,
    "weight": tf.float32,
}
"""What `_example` returns: the original pixels, the size to pad to, and the fields of `Batch`."""


def _example(
    source: Source,
    index: int,
    change: Callable[[Example], Example],
    bucket: int,
    geometry: Geometry,
    max_boxes: int,
) -> dict[str, np.ndarray]:
    """One image and its ground truth; blank if it cannot be read or `index` is -1."""
    canvas = geometry.canvases[bucket]
    if index < 0:
        image, size, resized = None, canvas, canvas
    else:
        image, size = source.try_load_image(index), source.size(index)
        resized = geometry.resized(size)
        if image is not None and (image.shape, image.dtype) != ((*size, 3), np.uint8):
            raise TypeError(
                f"the source made a {image.dtype} image of {image.shape} where its records say "
                f"uint8 of {(*size, 3)}"
            )
    readable = image is not None
    objects = source.records.objects(index) if readable else _NO_OBJECTS
    if image is None:
        image = np.zeros((1, 1, 3), np.uint8)  # blank at any size
    image, objects = change(Example(image, objects))
    scale = pixels_per_original(size, resized)
    boxes = objects.boxes * np.tile(scale[::-1], 2)
    padded = pad_objects(dataclasses.replace(objects, boxes=boxes), max_boxes)
    return {
        "image": image,
        "canvas": np.array(canvas, np.int32),
        **dict(zip(("boxes", "labels", "valid", "ignore"), padded, strict=True)),
        "image_size": np.array(resized, np.int32),
        "scale": scale,
        "image_id": np.array(max(index, 0), np.int32),
        "weight": np.array(readable, np.float32),
    }


_NO_OBJECTS = Objects(
    boxes=np.zeros((0, 4), np.float32),
    labels=np.zeros(0, np.int32),
    ignore=np.zeros(0, bool),
    area=np.zeros(0, np.float32),
)


def _resolve_max_boxes(source: Source, max_boxes: int | None) -> int:
    """Rows of ground truth for each image: enough for all in multiples of eight, or fewer."""
    needed = max(-(-source.records.max_objects // 8) * 8, 8)
    if max_boxes is None or max_boxes >= needed:
        return needed
    counts = np.diff(source.records.offsets)
    over = np.flatnonzero(counts > max_boxes)
    if len(over):
        logger.warning(
            "%s: config.data.max_boxes=%d cuts off %d objects in %d images; the fullest, %s, has "
            "%d",
            source.name,
            max_boxes,
            int((counts[over] - max_boxes).sum()),
            len(over),
            source.records.file_names[int(np.argmax(counts))],
            source.records.max_objects,
        )
    return max_boxes
