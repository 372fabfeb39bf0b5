"""A detector that takes pictures: `Detector.load(workdir).predict(picture)`."""

from __future__ import annotations

import collections
import functools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float32, Int32, UInt8
from PIL import Image

from ipg_jax.evaluation import BoxMerge, Tiles, boxes_to_original
from ipg_jax.files import read_regular
from ipg_jax.images import (
    DEFAULT_OPTIONS,
    ImageOptions,
    TileGrid,
    decode_image,
    padding_multiple,
    pil_to_rgb,
    prepare_image,
)
from ipg_jax.inference.ahead import map_ahead
from ipg_jax.inference.prediction import Prediction
from ipg_jax.inference.tiles import Found, detect_tiles
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.sharding import batch_devices, image_sharding, make_mesh, replicated
from ipg_jax.training.steps import of_mesh
from ipg_jax.training.trained import TrainedDetector
from ipg_jax.types import Array, Detections, Pyramid, PyTree, Size

Picture: TypeAlias = np.ndarray | Image.Image | str | os.PathLike[str]
"""A picture: uint8 `[h, w, 3]` in RGB, an image of Pillow's, or a path, local or `gs://`."""


class Seen(NamedTuple):
    """What became of one picture of a stream.

    Attributes:
      pixels: the picture in RGB; None if it could not be read.
      found: what is in it; None if it could not be read.
      error: why it could not.
    """

    pixels: UInt8[np.ndarray, "h w 3"] | None
    found: Prediction | None
    error: Exception | None

    def result(self) -> Prediction:
        """Returns what is in the picture, or raises why it could not be read."""
        if self.found is None:
            raise self.error or AssertionError("neither found nor failed")
        return self.found


class Detector:
    """Finds objects in pictures of any size, by a task and its variables.

    A program is compiled for each of two shapes, of pictures that are wider than high and of the
    others, when the first of them comes or in `warm_up`. TensorFlow is not needed.

    Attributes:
      shapes: those of the batches that a program was compiled for.
    """

    def __init__(
        self,
        task: DetectionTask,
        variables: PyTree,
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int | str] | None = None,
        image_size: tuple[int, int] = (800, 1333),
        threshold: float = 0.3,
        batch_size: int = 1,
        tiles: Tiles | None = None,
        image_options: ImageOptions = DEFAULT_OPTIONS,
        mesh: Mesh | None = None,
    ):
        """Places the variables on the devices.

        Args:
          task: the detector, as of `ipg_jax.build_task`.
          variables: `{"params": ..., "batch_stats": ...}`.
          class_names: the name of each label.
          category_ids: the training data's own id of each label; from 1 on by default.
          image_size: limits of the (short, long) side, in pixels, to which pictures are resized.
          threshold: least score of an object that `predict` returns.
          batch_size: pictures, or tiles of one, that the devices look at together.
          tiles: how pictures are cut into tiles and the boxes of these merged; by default they are
            looked at as a whole.
          image_options: how files are read.
          mesh: the devices; by default the first of this process.

        Raises:
          ValueError: the names are not as many as the task's classes, the threshold is no score, or
            the batch does not divide over the devices.
        """
        if len(class_names) != task.num_classes:
            raise ValueError(
                f"there are {len(class_names)} class names, and the task has {task.num_classes}"
            )
        check_threshold(threshold)
        self.mesh = one_device() if mesh is None else mesh
        if batch_size < 1 or batch_size % batch_devices(self.mesh):
            raise ValueError(
                f"batch_size={batch_size} is not a multiple of the {batch_devices(self.mesh)} "
                "devices that divide a batch"
            )
        self.task = task
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids or range(1, len(class_names) + 1))
        self.image_size = image_size
        self.threshold = threshold
        self.batch_size = batch_size
        self.tiles = tiles
        self.shapes: set[tuple[int, ...]] = set()
        self.image_options = image_options
        self._variables = jax.device_put(variables, replicated(self.mesh))

        def detect(
            variables: PyTree, pyramid: Pyramid, image_size: Int32[Array, "b 2"]
        ) -> Detections:
            with of_mesh(self.mesh):
                return task.predict(variables, pyramid, image_size)

        self._detect = jax.jit(detect, out_shardings=replicated(self.mesh))

    @classmethod
    def load(
        cls,
        path: epath.PathLike,
        *,
        checkpoint: str = "best",
        **options: Any,
    ) -> Detector:
        """Loads the detector of a training run.

        Args:
          path: the workdir of the run, local or `gs://`, or `checkpoints/<step>` in it.
          checkpoint: of a workdir: a step, `best` or `latest`.
          **options: arguments of the class, in the place of the run's own: `threshold`,
            `batch_size`, `tiles`, `image_size`, `image_options`, `mesh`.

        Raises:
          FileNotFoundError: there is no such run or checkpoint.
          ValueError: a file of the run is damaged; the message names it.
        """
        from ipg_jax.training.build_predict import load_trained  # needs ml_collections

        return cls.of(load_trained(path, checkpoint=checkpoint), **options)

    @classmethod
    def of(cls, trained: TrainedDetector, **options: Any) -> Detector:
        """Returns the detector of a run that was loaded; `options` as in `load`."""
        arguments: dict[str, Any] = {
            "class_names": [category["name"] for category in trained.categories],
            "category_ids": [category["id"] for category in trained.categories],
            "image_size": trained.image_size,
            "image_options": trained.image_options,
            "mesh": trained.mesh,
            "tiles": trained.tiles,
            "batch_size": trained.batch_size,
        }
        return cls(trained.task, trained.variables, **(arguments | options))

    @overload
    def predict(
        self,
        pictures: Picture,
        *,
        threshold: float | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        pictures: list[Picture] | tuple[Picture, ...],
        *,
        threshold: float | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        pictures: Picture | list[Picture] | tuple[Picture, ...],
        *,
        threshold: float | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> Prediction | list[Prediction]:
        """Returns what is found in a picture, or in each of several.

        Args:
          pictures: one, or a list of them.
          threshold: least score, instead of the detector's own; 0 for all that
            `task.score_threshold` and `task.max_detections` leave.
          tiles: how large pictures are cut, instead of the detector's own: a size (height, width)
            in pixels, with a fifth of overlap and the whole picture looked at as well; all of
            `evaluation.Tiles`; or False for whole pictures alone.

        Raises:
          OSError: a file cannot be read.
          ValueError: a file is no image, an array is not uint8 `[h, w, 3]`, the threshold is no
            score, or there are no tiles of that size.
        """
        if not isinstance(pictures, list | tuple):
            (found,) = self.predict([pictures], threshold=threshold, tiles=tiles)
            return found
        seen = self.stream(pictures, threshold=threshold, tiles=tiles)
        return [one.result() for one in seen]

    def stream(
        self,
        pictures: Iterable[Picture],
        *,
        threshold: float | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> Iterator[Seen]:
        """Yields what becomes of each picture, in their order, for more than memory holds.

        Pictures are read and resized in threads while the devices look at those before them. One
        that cannot be read ends nothing: it comes with its error.

        Args:
          pictures: as they come; some more than one batch are taken in advance.
          threshold: see `predict`, as for the next and the errors.
          tiles: the same.
        """
        threshold = self.threshold if threshold is None else threshold
        check_threshold(threshold)
        cut = self._tiles(tiles)
        if cut is not None:
            return self._stream_tiled(pictures, threshold, cut)
        return self._stream_whole(pictures, threshold)

    def _tiles(self, tiles: Tiles | Size | bool | None) -> Tiles | None:
        if tiles is None or tiles is True:
            if tiles and self.tiles is None:
                raise ValueError("tiles=True, and the detector has no tiles: give their size")
            return self.tiles
        if tiles is False or isinstance(tiles, Tiles):
            return tiles or None
        return Tiles(grid=TileGrid(tiles, 0.2), merge=BoxMerge(), whole=True)

    def _stream_tiled(
        self, pictures: Iterable[Picture], threshold: float, tiles: Tiles
    ) -> Iterator[Seen]:
        read = functools.partial(read_picture, options=self.image_options)
        for pixels in map_ahead(read, pictures, 2):
            if isinstance(pixels, Exception):
                yield Seen(None, None, pixels)
                continue
            found = detect_tiles(
                self._run, self._prepared, pixels, tiles, batch_size=self.batch_size
            )
            yield Seen(pixels, self._prediction(pixels, found, threshold), None)

    def _stream_whole(self, pictures: Iterable[Picture], threshold: float) -> Iterator[Seen]:
        done: dict[int, Seen] = {}
        waiting: dict[Size, list[tuple[int, _Prepared]]] = collections.defaultdict(list)
        following = 0
        for number, prepared in enumerate(map_ahead(self._prepare, pictures, 2 * self.batch_size)):
            if isinstance(prepared, Exception):
                done[number] = Seen(None, None, prepared)
            else:
                waiting[prepared.pyramid[0].shape[:2]].append((number, prepared))
            for shape, group in list(waiting.items()):
                # A full batch; or one whose first picture has kept others waiting long enough.
                if len(group) == self.batch_size or number - group[0][0] >= 4 * self.batch_size:
                    done |= self._look_at(waiting.pop(shape), threshold)
            while following in done:
                yield done.pop(following)
                following += 1
        for group in waiting.values():
            done |= self._look_at(group, threshold)
        for last in sorted(done):
            yield done[last]

    def warm_up(self, sizes: Iterable[Size] = ((2, 3), (3, 2))) -> None:
        """Compiles the programs now.

        Args:
          sizes: heights and widths of pictures that will come; by default both shapes.
        """
        for height, width in sizes:
            self.predict(np.zeros((height, width, 3), np.uint8))

    def _prepared(
        self, pixels: UInt8[np.ndarray, "h w 3"], *, tile: Size | None = None
    ) -> tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]:
        """What of a picture or a tile goes to the devices (`prepare_image`)."""
        levels = self.task.pyramid_levels
        return prepare_image(
            pixels,
            image_size=self.image_size,
            levels=levels,
            pad_multiple=padding_multiple(levels, self.mesh.shape["space"]),
            tile=tile,
        )

    def _prepare(self, picture: Picture) -> _Prepared:
        pixels = read_picture(picture, self.image_options)
        return _Prepared(pixels, *self._prepared(pixels))

    def _run(self, pyramid: Pyramid, image_size: Int32[np.ndarray, "b 2"]) -> Detections:
        self.shapes.add(pyramid[0].shape)
        placed = jax.device_put(pyramid, image_sharding(self.mesh))
        return self._detect(self._variables, placed, image_size)

    def _look_at(self, group: Sequence[tuple[int, _Prepared]], threshold: float) -> dict[int, Seen]:
        """What is found in each of up to `batch_size` pictures of one shape, by their numbers."""
        prepared = [one for _, one in group]
        filled = [*prepared, *[prepared[-1]] * (self.batch_size - len(prepared))]
        levels = zip(*(one.pyramid for one in filled), strict=True)
        pyramid = tuple(np.stack(level) for level in levels)
        found = jax.device_get(self._run(pyramid, np.stack([one.image_size for one in filled])))
        seen = {}
        for row, (number, one) in enumerate(group):
            boxes, scores, labels, valid = (
                np.asarray(x[row]) for x in (found.boxes, found.scores, found.labels, found.valid)
            )
            size = np.array(one.pixels.shape[:2], np.int32)
            original = boxes_to_original(boxes[valid], one.scale, size)
            of_one = Found(original, scores[valid], labels[valid])
            seen[number] = Seen(one.pixels, self._prediction(one.pixels, of_one, threshold), None)
        return seen

    def _prediction(
        self, pixels: UInt8[np.ndarray, "h w 3"], found: Found, threshold: float
    ) -> Prediction:
        keep = found.scores >= threshold
        height, width = pixels.shape[:2]
        return Prediction(
            boxes=found.boxes[keep].astype(np.float32),
            scores=found.scores[keep],
            labels=found.labels[keep].astype(np.int32),
            class_names=self.class_names,
            category_ids=self.category_ids,
            size=(height, width),
        )


class _Prepared(NamedTuple):
    """A picture and what of it goes to the devices; see `prepare_image`."""

    pixels: UInt8[np.ndarray, "h w 3"]
    pyramid: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    image_size: Int32[np.ndarray, " 2"]
    scale: Float32[np.ndarray, " 2"]


def one_device() -> Mesh:
    """Returns the mesh of this process's first device."""
    return make_mesh(data=1, devices=jax.local_devices()[:1])


def read_picture(
    picture: Picture, options: ImageOptions = DEFAULT_OPTIONS
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a picture in RGB.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is no image, or an array is not uint8 `[h, w, 3]`.
    """
    if isinstance(picture, Image.Image):
        return pil_to_rgb(picture, options)
    if not isinstance(picture, np.ndarray):
        return decode_image(read_regular(picture), options=options)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(
            f"an array of {picture.dtype} {list(picture.shape)} is no picture: it has to be uint8 "
            "[height, width, 3], in RGB"
        )
    if not picture.size:
        raise ValueError(f"the picture {list(picture.shape)} is empty")
    return picture


def check_threshold(threshold: float) -> None:
    """Raises ValueError for what is no score."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a score from 0 to 1, not {threshold}")
