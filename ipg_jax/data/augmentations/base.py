"""What an augmentation is: a pure function of an example and a generator, with checked options."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from ipg_jax.data.crop import Window, crop_objects
from ipg_jax.data.sources.base import NO_OBJECTS, Objects, Source
from ipg_jax.fields import Field, real
from ipg_jax.text import shown
from ipg_jax.types import Size


class Example(NamedTuple):
    """One image, its objects, and how large the network is to see it.

    The pixels are those of the file until, after all augmentations, they are resized once. So a
    crop is a slice of them, and another scale is another `size`.

    Attributes:
      image: uint8 `[h, w, 3]`.
      objects: boxes are `xyxy` in pixels of `image`.
      size: height and width that `image` is to be resized to, in pixels of the network input.
    """

    image: UInt8[np.ndarray, "h w 3"]
    objects: Objects
    size: Size

    @property
    def scale(self) -> Float[np.ndarray, " 2"]:
        """Pixels of the network input per pixel of the image, (y, x)."""
        return np.divide(self.size, self.image.shape[:2])


@dataclasses.dataclass(frozen=True)
class Images:
    """The training images, for augmentations that take more than one.

    Attributes:
      source: their source.
      resized: from the height and width of an image to those that the network is to see.
    """

    source: Source
    resized: Callable[[Size], Size]

    def load(self, index: int) -> Example | None:
        """Returns image `index` as it is in the source; None if it cannot be read.

        Raises:
          TypeError: the source made something else of it than its records say.
        """
        image, size = self.source.try_load_image(index), self.source.size(index)
        if image is None:
            return None
        if (image.shape, image.dtype) != ((*size, 3), np.uint8):
            raise TypeError(
                f"the source made a {image.dtype} image of {image.shape} where its records say "
                f"uint8 of {(*size, 3)}"
            )
        return Example(image, self.source.records.objects(index), self.resized(size))

    def draw(self, rng: np.random.Generator) -> Example:
        """Returns an image at random, black if ten that were drawn cannot be read."""
        for _ in range(10):
            index = int(rng.integers(len(self.source)))
            if (example := self.load(index)) is not None:
                return example
        return Example(np.zeros((1, 1, 3), np.uint8), NO_OBJECTS, self.resized((1, 1)))


def option(field: Field, default: Any = dataclasses.MISSING) -> Any:
    """An option of an augmentation.

    Args:
      field: what it may hold (`ipg_jax.fields`).
      default: its value where it is not given; without one, it must be given.
    """
    return dataclasses.field(default=default, metadata={"field": field})


SHARE = real(0.0, 1.0)
"""What a probability or a share of an area may be."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation(abc.ABC):
    """A random change of training images.

    A subclass is a frozen dataclass whose fields are its options, made by `option`. It draws all
    its random numbers from the generator that it is given, which is seeded by the run's seed, the
    epoch and the image: the same batches come on any number of hosts, and after a resume, with the
    same version of NumPy (NEP 19).

    Attributes:
      probability: how often it is applied.

    Raises:
      ValueError: an option has a value that it may not have.
    """

    probability: float = option(SHARE, 1.0)

    def __post_init__(self) -> None:
        self.check(vars(self))

    @classmethod
    def check(cls, options: Mapping[str, Any]) -> None:
        """Raises ValueError for options that it does not have, lacks, or that may not be so."""
        known = {field.name: field for field in dataclasses.fields(cls)}
        if unknown := [name for name in options if name not in known]:
            raise ValueError(
                f"there is no option {shown(repr(unknown[0]))}: there are {', '.join(known)}"
            )
        for name, field in known.items():
            allowed: Field = field.metadata["field"]
            if name in options:
                if (problem := allowed.problem(options[name])) is not None:
                    raise ValueError(f"{name} {problem}")
            elif field.default is dataclasses.MISSING:
                raise ValueError(f"{name} is not given: it is {allowed.text}")

    @property
    def limit(self) -> Size | None:
        """Largest height and width of content in all batches with it; None leaves them alone."""
        return None

    def objects_at_most(self, before: int, of_an_image: int) -> int:
        """Returns how many objects an image may have after it.

        Args:
          before: how many it may have had before.
          of_an_image: how many an image of the data set has at most.
        """
        return before

    def __call__(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """Returns the example, changed with `probability`."""
        if rng.random() < self.probability:
            return self.apply(example, rng, images)
        return example

    @abc.abstractmethod
    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """Returns the example, changed.

        Args:
          example: of any size, also of one pixel, and with any number of objects; its arrays are
            not to be written to.
          rng: for all random numbers.
          images: the other images of the data set.
        """


def cut(example: Example, window: Window, size: Size, *, min_visible: float) -> Example:
    """Returns a window of an example.

    Args:
      example: the whole.
      window: in pixels of its image, and inside.
      size: height and width that the window is to be resized to.
      min_visible: see `crop_objects`.
    """
    x0, y0, x1, y1 = window
    objects = crop_objects(example.objects, window, min_visible=min_visible)
    return Example(example.image[y0:y1, x0:x1], objects, size)


def at_final_size(example: Example) -> Example:
    """Returns the example as the network is to see it: resized, and boxes in its pixels."""
    from ipg_jax.data.transforms import resize  # with TensorFlow, which options do not need

    y, x = example.scale
    objects = dataclasses.replace(
        example.objects,
        boxes=example.objects.boxes * np.array([x, y, x, y], np.float32),
        area=example.objects.area * np.float32(y * x),
    )
    return Example(resize(example.image, example.size), objects, example.size)
