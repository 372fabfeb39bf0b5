"""Batches for training and evaluation, built by tf.data from any source.

Global batch `k` is a pure function of (source, seed, k) whatever the number of processes: a process
reads only its rows of each batch, and a run resumes at any step at no cost.
"""

from __future__ import annotations

import atexit
import dataclasses
import logging
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int32

from ipg_jax.data.augmentations import (
    Augmentation,
    Example,
    Images,
    RandomCrop,
    at_final_size,
    mirror,
)
from ipg_jax.data.quiet_tensorflow import tf
from ipg_jax.data.sampler import (
    BatchSampler,
    SequentialSampler,
    augmentation_rng,
    drawn_shape,
    flips,
)
from ipg_jax.data.sources.base import NO_OBJECTS, Source
from ipg_jax.data.transforms import pad_objects, padded_pyramid
from ipg_jax.images import Geometry, make_geometry, pixels_per_original
from ipg_jax.text import shown
from ipg_jax.types import IMAGE_BLOCK, Batch, ImageId, PackedImage, Size

logger = logging.getLogger(__name__)


def train_batches(
    source: Source,
    *,
    batch_size: int,
    seed: int,
    image_size: Size,
    levels: int,
    train_sizes: Sequence[Size] = (),
    start_step: int = 0,
    max_boxes: int | None = None,
    flip: float = 0.5,
    augmentations: Sequence[Augmentation] = (),
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
      train_sizes: such limits, of which each batch has one at random in the place of `image_size`.
      start_step: the step of the first batch, to resume a run.
      max_boxes: rows of ground truth for each image at most; by default, and where they need fewer,
        as many as the data and the augmentations need. Objects beyond it are cut off, which is
        logged.
      flip: probability of mirroring an image.
      augmentations: further random changes, in their order (`data.AUGMENTATIONS`). What they make
        larger than the batch is cut by a `RandomCrop` of its size.
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
      ValueError: the sizes contradict each other.
      RuntimeError: (of the generator) an image or an augmentation failed in another way than
        `Source.load_image` allows; the message names the image.
    """
    sizes = train_sizes or (image_size,)
    geometries = _geometries(source, sizes, augmentations, levels, pad_multiple)

    def geometry(step: int) -> Geometry:
        return geometries[drawn_shape(seed, step, len(geometries))]

    def change(example: Example, view: _View) -> Example:
        images = Images(source, view.geometry.resized)
        return _augmented(example, images, view, augmentations, flip=flip, seed=seed)

    return _batches(
        source,
        BatchSampler(_buckets(source, geometries), batch_size, seed, repeats),
        steps=range(start_step, 2**31),
        rows=range(batch_size) if rows is None else rows,
        geometry=geometry,
        levels=levels,
        space_to_depth=space_to_depth,
        max_boxes=_resolve_max_boxes(source, max_boxes, augmentations),
        change=change,
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
    geometry = make_geometry(image_size, levels, pad_multiple, tile=source.tile)
    sampler = SequentialSampler(_buckets(source, [geometry]), batch_size)
    return _batches(
        source,
        sampler,
        steps=range(len(sampler)),
        rows=range(batch_size) if rows is None else rows,
        geometry=lambda step: geometry,
        levels=levels,
        space_to_depth=space_to_depth,
        max_boxes=_resolve_max_boxes(source, max_boxes),
        change=lambda example, view: mirror(example) if flip else example,
        prefetch=prefetch,
    )


def train_example(
    source: Source,
    index: int,
    *,
    seed: int,
    image_size: Size,
    epoch: int = 0,
    flip: float = 0.5,
    augmentations: Sequence[Augmentation] = (),
) -> Example:
    """Returns one image as training sees it in an epoch, resized and without padding.

    Args:
      source: the data set.
      index: of the image.
      seed: see `train_batches`, as for the others.
      image_size: the same, for what is one of `train_sizes` there.
      epoch: how often the image has been seen before.
      flip: see `train_batches`.
      augmentations: the same.

    Raises:
      ValueError: the image cannot be read, or the size is none.
    """
    (geometry,) = _geometries(source, (image_size,), augmentations)
    images = Images(source, geometry.resized)
    example = images.load(index)
    if example is None:
        raise ValueError(f"{source.name}: {shown(source.records.file_names[index])} is unreadable")
    bucket = int(geometry.buckets(source.records.sizes[index : index + 1])[0])
    view = _View(geometry, bucket, index, epoch)
    changed = _augmented(example, images, view, augmentations, flip=flip, seed=seed)
    return at_final_size(changed)


def global_batch_records(
    source: Source,
    step: int,
    *,
    batch_size: int,
    seed: int,
    image_size: Size,
    train_sizes: Sequence[Size] = (),
    augmentations: Sequence[Augmentation] = (),
    repeats: Float[np.ndarray, " n"] | None = None,
) -> list[tuple[ImageId, str]]:
    """Image ids and file names of global training batch `step`, for error messages.

    The arguments are those of `train_batches`; nothing is read.
    """
    geometries = _geometries(source, train_sizes or (image_size,), augmentations)
    sampler = BatchSampler(_buckets(source, geometries), batch_size, seed, repeats)
    records = source.records
    return [(records.image_ids[i], records.file_names[i]) for i in sampler.batch(step).indices]


@dataclasses.dataclass(frozen=True)
class _View:
    """In which batch an image is, which shape that has, and which epoch it is for the image."""

    geometry: Geometry
    bucket: int
    index: int
    epoch: int

    @property
    def limit(self) -> Size:
        """Largest height and width of its content."""
        return self.geometry.limits[self.bucket % len(self.geometry.limits)]

    @property
    def canvas(self) -> Size:
        """Height and width of the padded image."""
        return self.geometry.canvases[self.bucket % len(self.geometry.canvases)]


def _geometries(
    source: Source,
    sizes: Sequence[Size],
    augmentations: Sequence[Augmentation],
    levels: int = 1,
    pad_multiple: int = 1,
) -> list[Geometry]:
    """The geometry of training batches for each of some limits of the (short, long) side.

    Of augmentations that ask for one shape, the last decides.
    """
    limits = (one.limit for one in reversed(augmentations) if one.limit is not None)
    limit = next(limits, None)
    return [make_geometry(size, levels, pad_multiple, limit, source.tile) for size in sizes]


def _buckets(source: Source, geometries: Sequence[Geometry]) -> Int32[np.ndarray, " n"]:
    """The bucket of each image: its orientation, where that matters to one of the geometries."""
    sizes = source.records.sizes
    return np.max([geometry.buckets(sizes) for geometry in geometries], axis=0)


def _augmented(
    example: Example,
    images: Images,
    view: _View,
    augmentations: Sequence[Augmentation],
    *,
    flip: float,
    seed: int,
) -> Example:
    """The example after all random changes of its epoch, no larger than its batch.

    Padding, which depends on the mesh, is not counted: batches hold the same on any.
    """
    rng = augmentation_rng(seed, view.epoch, view.index)
    for augmentation in augmentations:
        example = augmentation(example, rng, images)
    if flips(seed, view.epoch, view.index, flip):
        example = mirror(example)
    return RandomCrop(size=view.limit).apply(example, rng, images)


def _batches(
    source: Source,
    sampler: BatchSampler | SequentialSampler,
    *,
    steps: range,
    rows: Sequence[int],
    geometry: Callable[[int], Geometry],
    levels: int,
    space_to_depth: bool,
    max_boxes: int,
    change: Callable[[Example, _View], Example],
    prefetch: int,
) -> Generator[Batch, None, None]:
    """The given rows of the given steps of a sampler, in the geometry of each step."""
    failures: list[tuple[int, Exception]] = []

    def load(position: np.int64) -> list[np.ndarray]:
        """The values of `_FIELDS` for one image, `position` counted in images of this process."""
        step, row = divmod(int(position), len(rows))
        bucket, indices, epochs = sampler.batch(step)
        index, epoch = int(indices[rows[row]]), int(epochs[rows[row]])
        try:
            element = _element(
                source, _View(geometry(step), bucket, index, epoch), change, max_boxes
            )
        except Exception as error:
            failures.append((index, error))
            raise RuntimeError("see failures") from error  # a StopIteration would end the data
        return [element[name] for name in _FIELDS]

    @tf.autograph.experimental.do_not_convert  # its loops are Python's, not the graph's
    def build(position: tf.Tensor) -> dict[str, Any]:
        values = tf.numpy_function(load, [position], list(_FIELDS.values()), stateful=False)
        element = dict(zip(_FIELDS, values, strict=True))
        image, canvas = element.pop("image"), element.pop("canvas")
        pyramid = padded_pyramid(image, element["image_size"], canvas, levels)
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
"""What `_element` returns: the original pixels, the size to pad to, and the fields of `Batch`."""


def _element(
    source: Source, view: _View, change: Callable[[Example, _View], Example], max_boxes: int
) -> dict[str, np.ndarray]:
    """One image and its ground truth; blank if it cannot be read or the index is -1."""
    canvas, index = view.canvas, view.index
    example = None if index < 0 else Images(source, view.geometry.resized).load(index)
    readable = example is not None
    if example is not None:
        example = change(example, view)
        scale = example.scale.astype(np.float32)
    else:
        size = canvas if index < 0 else source.size(index)
        resized = canvas if index < 0 else view.geometry.resized(size)
        limit = canvas if index < 0 else view.limit
        within = min(resized[0], limit[0]), min(resized[1], limit[1])
        example = Example(np.zeros((1, 1, 3), np.uint8), NO_OBJECTS, within)  # blank at any size
        scale = pixels_per_original(size, resized)
    boxes = example.objects.boxes * np.tile(scale[::-1], 2)
    padded = pad_objects(dataclasses.replace(example.objects, boxes=boxes), max_boxes)
    return {
        "image": example.image,
        "canvas": np.array(canvas, np.int32),
        **dict(zip(("boxes", "labels", "valid", "ignore"), padded, strict=True)),
        "image_size": np.array(example.size, np.int32),
        "scale": scale,
        "image_id": np.array(max(index, 0), np.int32),
        "weight": np.array(readable, np.float32),
    }


def _resolve_max_boxes(
    source: Source, max_boxes: int | None, augmentations: Sequence[Augmentation] = ()
) -> int:
    """Rows of ground truth for each image: enough for all in multiples of eight, or fewer."""
    most = of_an_image = source.records.max_objects
    for augmentation in augmentations:
        most = augmentation.objects_at_most(most, of_an_image)
    needed = max(-(-most // 8) * 8, 8)
    if max_boxes is None or max_boxes >= needed:
        return needed
    counts = np.diff(source.records.offsets)
    over = np.flatnonzero(counts > max_boxes)
    if len(over):
        logger.warning(
            "%s: config.data.max_boxes=%d cuts off %d objects in %d images; the fullest, %s, has "
            "%d",
            shown(source.name),
            max_boxes,
            int((counts[over] - max_boxes).sum()),
            len(over),
            shown(source.records.file_names[int(np.argmax(counts))]),
            of_an_image,
        )
    if most > of_an_image:
        logger.warning(
            "%s: config.data.augmentations make images of up to %d objects, of which "
            "config.data.max_boxes=%d keeps the first",
            shown(source.name),
            most,
            max_boxes,
        )
    return max_boxes
