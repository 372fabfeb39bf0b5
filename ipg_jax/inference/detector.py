"""A detector that takes pictures: `Detector.load(workdir).predict(picture)`."""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jaxtyping import Float64, Int32, UInt8

from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.files import is_regular
from ipg_jax.images import (
    DEFAULT_OPTIONS,
    ImageOptions,
    Picture,
    TileGrid,
    make_geometry,
    padding_multiple,
    prepare_image,
    read_picture,
)
from ipg_jax.inference.ahead import map_ahead
from ipg_jax.inference.exported import ExportedDetector
from ipg_jax.inference.prediction import Prediction
from ipg_jax.inference.tiles import detect_tiles
from ipg_jax.inference.views import Found, View, found_in, stack_views, whole_view
from ipg_jax.tasks import DetectionTask
from ipg_jax.training.sharding import batch_devices, image_sharding, make_mesh, replicated
from ipg_jax.training.steps import of_mesh
from ipg_jax.training.trained import TrainedDetector
from ipg_jax.types import Array, Detections, Pyramid, PyTree, Size
from ipg_jax.weights import is_weights

DEFAULT_THRESHOLD = 0.3
"""Least score of an object where neither the user nor a report of the run says another."""


Thresholds: TypeAlias = Float64[np.ndarray, " c"]
"""The least score of each class, by label."""


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
      variables: the task's, on the devices.
      prepare_image: makes the task's input of a picture (`images.prepare_image`).
      shapes: those of the batches that a program was compiled for.
    """

    def __init__(
        self,
        task: DetectionTask | ExportedDetector,
        variables: PyTree,
        *,
        class_names: Sequence[str],
        category_ids: Sequence[int | str] | None = None,
        image_size: tuple[int, int] = (800, 1333),
        threshold: float | Sequence[float] = DEFAULT_THRESHOLD,
        batch_size: int = 1,
        tiles: Tiles | Size | None = None,
        tile_overlap: float = 0.2,
        merge: BoxMerge | None = None,
        image_options: ImageOptions = DEFAULT_OPTIONS,
        mesh: Mesh | None = None,
    ):
        """Places the variables on the devices.

        Args:
          task: the detector, as of `ipg_jax.build_task` or of a file.
          variables: `{"params": ..., "batch_stats": ...}`, or the `weights` of the file.
          class_names: the name of each label.
          category_ids: the training data's own id of each label; from 1 on by default.
          image_size: limits of the (short, long) side, in pixels, to which pictures are resized.
          threshold: least score of an object that `predict` returns, or that of each class by its
            label.
          batch_size: pictures, or tiles of one, that the devices look at together.
          tiles: how large pictures are cut: a size (height, width) in pixels, with the whole
            picture looked at as well; or all of `evaluation.Tiles`. By default they are looked at
            as a whole alone.
          tile_overlap: of tiles that are given by their size, here or later: the share of a tile's
            height and width that neighbours have in common.
          merge: how the boxes of such tiles are merged; by default as `evaluation.BoxMerge()`.
          image_options: how files are read.
          mesh: the devices; by default the first of this process.

        Raises:
          ValueError: the names are not as many as the task's classes, the ids are not as many as
            the names, the threshold is no score, there are no images of that size or tiles of that
            size and overlap, or the batch does not divide over the devices.
          TypeError: `merge` is no `BoxMerge`.
        """
        if len(class_names) != task.num_classes:
            raise ValueError(
                f"there are {len(class_names)} class names, and the task has {task.num_classes}"
            )
        if category_ids is None:
            category_ids = range(1, len(class_names) + 1)
        if len(category_ids) != len(class_names):
            raise ValueError(
                f"there are {len(category_ids)} category ids, and {len(class_names)} class names"
            )
        if not isinstance(merge, BoxMerge | None):
            raise TypeError(f"merge is a BoxMerge, such as BoxMerge(method='nms'), not {merge!r}")
        make_geometry(image_size, task.pyramid_levels)  # or the first picture would tell
        self.mesh = one_device() if mesh is None else mesh
        if batch_size < 1 or batch_size % batch_devices(self.mesh):
            raise ValueError(
                f"batch_size={batch_size} is not a multiple of the {batch_devices(self.mesh)} "
                "devices that divide a batch"
            )
        self.task = task
        self.class_names = tuple(class_names)
        self.category_ids = tuple(category_ids)
        self.image_size = image_size
        self.thresholds = _class_thresholds(threshold, len(class_names))
        self.batch_size = batch_size
        self.tile_overlap = tile_overlap
        self.merge = BoxMerge() if merge is None else merge
        self.tiles = self._as_tiles(tiles)
        self.shapes: set[tuple[int, ...]] = set()
        self.image_options = image_options
        self.prepare_image = functools.partial(
            prepare_image,
            image_size=image_size,
            levels=task.pyramid_levels,
            pad_multiple=padding_multiple(task.pyramid_levels, self.mesh.shape["space"]),
        )
        self.variables = jax.device_put(variables, replicated(self.mesh))

        def detect(
            variables: PyTree, pyramid: Pyramid, image_size: Int32[Array, "b 2"]
        ) -> Detections:
            with of_mesh(self.mesh):
                return task.predict(variables, pyramid, image_size)

        self._detect = jax.jit(detect, out_shardings=replicated(self.mesh))

    def __repr__(self) -> str:
        classes = ", ".join(self.class_names[:4]) + (", ..." if len(self.class_names) > 4 else "")
        tiles = "" if self.tiles is None else f", tiles={self.tiles.grid.size}"
        return (
            f"<Detector of {len(self.class_names)} classes: {classes}; "
            f"image_size={self.image_size}{tiles}, batch_size={self.batch_size}>"
        )

    @classmethod
    def load(
        cls,
        path: epath.PathLike,
        *,
        checkpoint: str = "best",
        **options: Any,
    ) -> Detector:
        """Loads the detector of a training run, of a file, or one that has a name.

        Its thresholds are the best ones of the run's report (`report/thresholds.json`), where there
        is one of this checkpoint, and else, and for classes of which nothing was found,
        `DEFAULT_THRESHOLD`.

        Args:
          path: the workdir of the run, local or `gs://`, or `checkpoints/<step>` in it; a file that
            `ipg-jax weights` or `ipg-jax export` made of a run; or a name (`weights.known_models`).
          checkpoint: of a workdir: a step, `best` or `latest`.
          **options: arguments of the class, in the place of the run's own: `threshold`,
            `batch_size`, `tiles`, `tile_overlap`, `merge`, `image_size`, `image_options`, `mesh`.

        Raises:
          FileNotFoundError: there is no such run or checkpoint.
          ValueError: a file of the run is damaged, or the file is no detector; it is named.
        """
        if is_regular(path) and not is_weights(path):
            exported = ExportedDetector.load(path)
            return cls(exported, exported.weights, **(exported.settings | options))
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
        if trained.thresholds is not None:
            arguments["threshold"] = [
                DEFAULT_THRESHOLD if threshold is None else threshold
                for threshold in trained.thresholds
            ]
        return cls(trained.task, trained.variables, **(arguments | options))

    @overload
    def predict(
        self,
        pictures: Picture,
        *,
        threshold: float | Sequence[float] | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> Prediction: ...

    @overload
    def predict(
        self,
        pictures: list[Picture] | tuple[Picture, ...],
        *,
        threshold: float | Sequence[float] | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> list[Prediction]: ...

    def predict(
        self,
        pictures: Picture | list[Picture] | tuple[Picture, ...],
        *,
        threshold: float | Sequence[float] | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> Prediction | list[Prediction]:
        """Returns what is found in a picture, or in each of several.

        Args:
          pictures: one, or a list of them.
          threshold: least score, or that of each class, instead of the detector's own; 0 for all
            that `task.score_threshold` and `task.max_detections` leave.
          tiles: how large pictures are cut, instead of the detector's own: as its argument of that
            name, or False for whole pictures alone; True asks that it have some.

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
        threshold: float | Sequence[float] | None = None,
        tiles: Tiles | Size | bool | None = None,
    ) -> Iterator[Seen]:
        """Yields what becomes of each picture, in their order, for more than memory holds.

        Pictures are read and resized in threads while the devices look at those before them. One
        that cannot be read (an OSError or a ValueError) ends nothing: it comes with its error. Any
        other exception, also of `pictures`, is raised behind what was found before it.

        Args:
          pictures: as they come; some more than one batch are taken in advance.
          threshold: see `predict`, as for the next and the errors.
          tiles: the same.
        """
        thresholds = self.thresholds_for(threshold)
        if tiles is True and self.tiles is None:
            raise ValueError("tiles=True, and the detector has no tiles: give their size")
        cut = self.tiles if tiles is None or tiles is True else self._as_tiles(tiles or None)
        if cut is None:
            return self._stream_whole(pictures, thresholds)
        return self._stream_tiled(pictures, thresholds, cut)

    def _as_tiles(self, tiles: Tiles | Size | None) -> Tiles | None:
        if tiles is None or isinstance(tiles, Tiles):
            return tiles
        return Tiles(grid=TileGrid(tiles, self.tile_overlap), merge=self.merge, whole=True)

    def _stream_tiled(
        self, pictures: Iterable[Picture], thresholds: Thresholds, tiles: Tiles
    ) -> Iterator[Seen]:
        with contextlib.closing(map_ahead(self._read, pictures, 2)) as read:
            for pixels in read:
                if isinstance(pixels, Exception):
                    yield Seen(None, None, pixels)
                    continue
                found = detect_tiles(
                    self._run, self.prepare_image, pixels, tiles, batch_size=self.batch_size
                )
                yield Seen(pixels, self._prediction(pixels, found, thresholds), None)

    def _stream_whole(self, pictures: Iterable[Picture], thresholds: Thresholds) -> Iterator[Seen]:
        done: dict[int, Seen] = {}
        waiting: dict[Size, list[tuple[int, _Prepared]]] = collections.defaultdict(list)
        following = 0
        failure: Exception | None = None
        with contextlib.closing(map_ahead(self._prepare, pictures, 2 * self.batch_size)) as ready:
            try:
                for number, prepared in enumerate(ready):
                    if isinstance(prepared, Exception):
                        done[number] = Seen(None, None, prepared)
                    else:
                        waiting[prepared.view.shape].append((number, prepared))
                    for shape, group in list(waiting.items()):
                        # Full; or its first picture has kept others waiting long enough.
                        longest = number - group[0][0] >= 4 * self.batch_size
                        if len(group) == self.batch_size or longest:
                            done |= self._look_at(waiting.pop(shape), thresholds)
                    while following in done:
                        yield done.pop(following)
                        following += 1
            except Exception as error:  # raised when what came before is looked at
                failure = error
        for group in waiting.values():
            done |= self._look_at(group, thresholds)
        while following in done:
            yield done.pop(following)
            following += 1
        if failure is not None:
            raise failure

    def thresholds_for(self, threshold: float | Sequence[float] | None) -> Thresholds:
        """Returns the least score of each class for the argument of `predict`: None is its own.

        Raises:
          ValueError: a threshold is no score, or they are not as many as the classes.
        """
        if threshold is None:
            return self.thresholds
        return _class_thresholds(threshold, len(self.class_names))

    def warm_up(self, sizes: Iterable[Size] = ((2, 3), (3, 2))) -> None:
        """Compiles the programs now.

        Args:
          sizes: heights and widths of pictures that will come; by default both shapes.
        """
        for height, width in sizes:
            self.predict(np.zeros((height, width, 3), np.uint8))

    def _read(self, picture: Picture) -> UInt8[np.ndarray, "h w 3"] | OSError | ValueError:
        """The pixels, or why the picture cannot be read."""
        try:
            return read_picture(picture, self.image_options)
        except (OSError, ValueError) as error:
            return error

    def _prepare(self, picture: Picture) -> _Prepared | OSError | ValueError:
        pixels = self._read(picture)
        if isinstance(pixels, Exception):
            return pixels
        return _Prepared(pixels, whole_view(self.prepare_image, pixels))

    def _run(self, pyramid: Pyramid, image_size: Int32[np.ndarray, "b 2"]) -> Detections:
        self.shapes.add(pyramid[0].shape)
        placed = jax.device_put(pyramid, image_sharding(self.mesh))
        return self._detect(self.variables, placed, image_size)

    def _look_at(
        self, group: Sequence[tuple[int, _Prepared]], thresholds: Thresholds
    ) -> dict[int, Seen]:
        """What is found in each of up to `batch_size` pictures of one shape, by their numbers."""
        views = [one.view for _, one in group]
        found = found_in(views, self._run(*stack_views(views, self.batch_size)))
        return {
            number: Seen(one.pixels, self._prediction(one.pixels, of_one, thresholds), None)
            for (number, one), of_one in zip(group, found, strict=True)
        }

    def _prediction(
        self, pixels: UInt8[np.ndarray, "h w 3"], found: Found, thresholds: Thresholds
    ) -> Prediction:
        keep = found.scores >= thresholds[found.labels]
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
    """A picture, and how the detector sees it."""

    pixels: UInt8[np.ndarray, "h w 3"]
    view: View


def one_device() -> Mesh:
    """Returns the mesh of this process's first device."""
    return make_mesh(data=1, devices=jax.local_devices()[:1])


def _class_thresholds(threshold: float | Sequence[float], classes: int) -> Thresholds:
    try:
        thresholds = np.asarray(threshold, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"threshold is a score from 0 to 1, not {threshold!r}") from error
    if thresholds.shape not in ((), (classes,)):
        raise ValueError(
            f"threshold is a score or {classes}, one of each class, not of shape {thresholds.shape}"
        )
    for value in np.atleast_1d(thresholds).tolist():
        if not 0 <= value <= 1:
            raise ValueError(f"threshold is a score from 0 to 1, not {value}")
    return np.broadcast_to(thresholds, (classes,))
