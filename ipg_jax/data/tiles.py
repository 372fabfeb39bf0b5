"""A source whose images are the tiles of larger ones."""

from __future__ import annotations

import collections
import concurrent.futures
import hashlib
import threading
from collections.abc import Callable

import numpy as np
from jaxtyping import Float32, UInt8

from ipg_jax.data.crop import MIN_VISIBLE, crop_objects, visible_shares
from ipg_jax.data.sources.base import Objects, Records, Source
from ipg_jax.images import TileGrid
from ipg_jax.types import ImageId


class TiledSource(Source):
    """The tiles of another source's images, each an image of its own.

    What becomes of objects at the borders of a tile is up to `crop_objects`. Images are decoded
    when a tile is asked for, and the last used are kept, so that neighbours need not decode one
    again. An image that cannot be read is counted once, in the source that it is from, whatever the
    number of its tiles; the report is that source's.

    Attributes:
      base: the source that the images are from.
      image_index: for each tile, the index of its image in `base`.
      windows: its position there, `(x0, y0, x1, y1)` in pixels.
      left_out: number of tiles that `empty_tiles` left out.
    """

    def __init__(
        self,
        base: Source,
        grid: TileGrid,
        *,
        min_visible: float = MIN_VISIBLE,
        empty_tiles: float = 1.0,
        seed: int = 0,
        cache_bytes: int = 2**30,
    ):
        """Cuts the annotations; no image is read.

        Args:
          base: the images.
          grid: how they are cut.
          min_visible: see `crop_objects`.
          empty_tiles: share of the tiles without an object to learn from (without any, or with
            regions to ignore alone) that are kept. Which are is a function of the seed, the image's
            id and the tile's position, and those of a smaller share are among those of a larger
            one.
          seed: of that choice.
          cache_bytes: how many bytes of decoded images are kept at most, besides those in use.

        Raises:
          ValueError: a share is out of range, or no tile is left.
        """
        if not 0 <= empty_tiles <= 1:
            raise ValueError(f"empty_tiles={empty_tiles} is not a share from 0 to 1")
        image_index: list[int] = []
        windows: list[tuple[int, int, int, int]] = []
        objects: list[Objects] = []
        whole_boxes: list[np.ndarray] = []
        self.left_out = 0
        for index, image_id in enumerate(base.records.image_ids):
            of_image = base.records.objects(index)
            for x0, y0, x1, y1 in grid.windows(base.size(index)).tolist():
                of_tile = crop_objects(of_image, (x0, y0, x1, y1), min_visible=min_visible)
                if of_tile.ignore.all() and _draw(seed, image_id, x0, y0) >= empty_tiles:
                    self.left_out += 1
                    continue
                image_index.append(index)
                windows.append((x0, y0, x1, y1))
                objects.append(of_tile)
                seen = visible_shares(of_image.boxes, (x0, y0, x1, y1)) > 0
                whole_boxes.append(of_image.boxes[seen])
        if not windows:
            raise ValueError(
                f"{base.name}: no tile of {grid.size[0]} x {grid.size[1]} pixels has an object to "
                f"learn from, and empty_tiles={empty_tiles} leaves out all {self.left_out} of them"
            )
        super().__init__(
            name=base.name,
            class_names=base.class_names,
            category_ids=base.category_ids,
            records=_tile_records(base.records, image_index, windows, objects),
            report=base.report,
        )
        self.base = base
        self.tile = grid.size
        self.image_index = np.array(image_index, np.int32)
        self.windows = np.array(windows, np.int32)
        self._whole_boxes = np.concatenate(whole_boxes)
        self._images = ImageCache(lambda index: base.load_image(index), cache_bytes)

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """See `Source.load_image`."""
        x0, y0, x1, y1 = self.windows[index]
        return self._images(int(self.image_index[index]))[y0:y1, x0:x1].copy()

    @property
    def whole_boxes(self) -> Float32[np.ndarray, "t 4"]:
        """See `Source.whole_boxes`; in pixels of the image."""
        return self._whole_boxes

    def count_unreadable(self, index: int, error: OSError | ValueError) -> None:
        """Counts the tile's image in `base`."""
        self.base.count_unreadable(int(self.image_index[index]), error)

    @property
    def unreadable(self) -> int:
        """Number of images, not tiles, that could not be read so far, in this process."""
        return self.base.unreadable

    @property
    def failures(self) -> list[str]:
        """The name of each of these images and the reason, the newest last."""
        return self.base.failures


def _draw(seed: int, image_id: ImageId, x0: int, y0: int) -> float:
    """A number from 0 to below 1 that depends on the arguments alone."""
    text = f"{seed} {x0} {y0} {image_id!r}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=7).digest(), "big") / 2**56


def _tile_records(
    records: Records,
    image_index: list[int],
    windows: list[tuple[int, int, int, int]],
    objects: list[Objects],
) -> Records:
    """The annotations of the tiles, each named by its image and its position there."""

    def named(names: list[ImageId] | list[str]) -> list[str]:
        return [
            f"{names[i]}[{y0}:{y1}, {x0}:{x1}]"
            for i, (x0, y0, x1, y1) in zip(image_index, windows, strict=True)
        ]

    together = Objects.concatenated(objects)
    return Records(
        image_ids=[*named(records.image_ids)],
        file_names=named(records.file_names),
        sizes=np.array([(y1 - y0, x1 - x0) for x0, y0, x1, y1 in windows], np.int32),
        offsets=np.cumsum([0, *(len(x.labels) for x in objects)], dtype=np.int64),
        boxes=together.boxes,
        labels=together.labels,
        ignore=together.ignore,
        area=together.area,
        annotated=records.annotated,
    )


class ImageCache:
    """Decoded images: the last used are kept, up to a number of bytes; thread-safe.

    Threads that ask for an image while another loads it wait for that, and share the array, which
    nobody may write to.
    """

    def __init__(self, load: Callable[[int], UInt8[np.ndarray, "h w 3"]], max_bytes: int):
        """Begins empty.

        Args:
          load: returns an image by its index; what it raises goes to all who wait for the image.
          max_bytes: of the arrays that are kept.
        """
        self._load = load
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: collections.OrderedDict[int, np.ndarray] = collections.OrderedDict()
        self._loading: dict[int, concurrent.futures.Future[np.ndarray]] = {}
        self._lock = threading.Lock()

    def __call__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Returns image `index`."""
        with self._lock:
            if index in self._kept:
                self._kept.move_to_end(index)
                return self._kept[index]
            waiting = self._loading.get(index)
            if waiting is None:
                loading = self._loading[index] = concurrent.futures.Future()
        if waiting is not None:
            return waiting.result()
        try:
            image = self._load(index)
        except BaseException as error:
            with self._lock:
                del self._loading[index]
            loading.set_exception(error)
            raise
        with self._lock:
            del self._loading[index]
            self._keep(index, image)
        loading.set_result(image)
        return image

    def _keep(self, index: int, image: np.ndarray) -> None:
        if image.nbytes > self._max_bytes:
            return
        self._kept[index] = image
        self._bytes += image.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes
