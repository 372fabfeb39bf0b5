"""Augmentations that change the values of pixels and leave boxes where they are.

By Pillow, which works on bytes and beside other threads: on images of 480 x 640 its change of
colours takes a sixth of the time that the same product takes in NumPy.
"""

from __future__ import annotations

import dataclasses
import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter

from ipg_jax.data.augmentations.base import SHARE, Augmentation, Example, Images, option
from ipg_jax.fields import ascending_pair, real, whole

GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the luma of ITU-R BT.601."""

_YIQ = np.array([GREY, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
"""From RGB to NTSC's luma and two axes of colour."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColorJitter(Augmentation):
    """Changes brightness, contrast, saturation and hue, each by an amount drawn uniformly.

    Values `v` become `f v` (brightness), then `m + f (v - m)` with `m` the mean luma of the image
    (contrast) or the pixel's own luma (saturation); a factor `f` is between `1 - amount` and
    `1 + amount`. Hue is a turn of the plane of colours in NTSC's YIQ, by a share of a whole turn
    between `-hue` and `hue`. All are linear and done as one matrix, rounded and clipped once.

    Attributes:
      probability: how often.
      brightness: the largest change of the factor, as of the next two.
      contrast: the same.
      saturation: the same.
      hue: the largest share of a turn.
    """

    brightness: float = option(SHARE, 0.2)
    contrast: float = option(SHARE, 0.2)
    saturation: float = option(SHARE, 0.2)
    hue: float = option(real(0.0, 0.5), 0.02)

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        amounts = np.array([self.brightness, self.contrast, self.saturation])
        brightness, contrast, saturation = 1 + amounts * rng.uniform(-1, 1, 3)
        angle = 2 * np.pi * self.hue * rng.uniform(-1, 1)
        rows, columns = (max(side // 64, 1) for side in example.image.shape[:2])
        mean = (example.image[::rows, ::columns] @ GREY).mean()  # of some 64 x 64 pixels
        grey = np.broadcast_to(GREY, (3, 3))
        matrix = _turn_of_hue(angle) @ (grey + saturation * (np.eye(3) - grey))
        offset = (1 - contrast) * brightness * mean
        columns_of = np.concatenate(
            [contrast * brightness * matrix, np.full((3, 1), offset)], axis=1
        )
        picture = _picture(example.image).convert("RGB", tuple(columns_of.ravel().tolist()))
        return example._replace(image=np.asarray(picture))


def _turn_of_hue(angle: float) -> Float[np.ndarray, "3 3"]:
    """The matrix that turns the colours of RGB by an angle in radians, and keeps greys."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.linalg.inv(_YIQ) @ turn @ _YIQ


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianBlur(Augmentation):
    """Blurs with a Gaussian, of which Pillow makes three box filters.

    Attributes:
      probability: how often.
      sigma: least and largest standard deviation, in pixels of the image, drawn uniformly.
    """

    probability: float = option(SHARE, 0.5)
    sigma: tuple[float, float] = option(
        ascending_pair(real(0.0, 100.0), "(least, largest) of numbers of pixels from 0 to 100"),
        (0.1, 2.0),
    )

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        blur = ImageFilter.GaussianBlur(rng.uniform(*self.sigma))
        return example._replace(image=np.asarray(_picture(example.image).filter(blur)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianNoise(Augmentation):
    """Adds Gaussian noise, another for each pixel and channel.

    Attributes:
      probability: how often.
      sigma: least and largest standard deviation, of 255 levels, drawn uniformly.
    """

    probability: float = option(SHARE, 0.5)
    sigma: tuple[float, float] = option(
        ascending_pair(real(0.0, 255.0), "(least, largest) of levels from 0 to 255"),
        (0.0, 10.0),
    )

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        noisy = rng.standard_normal(example.image.shape, np.float32)
        noisy *= np.float32(rng.uniform(*self.sigma))
        noisy += example.image
        np.clip(np.rint(noisy, out=noisy), 0, 255, out=noisy)
        return example._replace(image=noisy.astype(np.uint8))


@dataclasses.dataclass(frozen=True, kw_only=True)
class JpegCompression(Augmentation):
    """Compresses the image as a JPEG file does; one too large for such a file is left as it is.

    Attributes:
      probability: how often.
      quality: least and largest quality as libjpeg counts it, drawn uniformly.
    """

    probability: float = option(SHARE, 0.5)
    quality: tuple[int, int] = option(
        ascending_pair(whole(1, 95), "(least, largest) of whole numbers from 1 to 95"),
        (40, 95),
    )

    def apply(self, example: Example, rng: np.random.Generator, images: Images) -> Example:
        """See `Augmentation`."""
        least, largest = self.quality
        quality = int(rng.integers(least, largest + 1))
        if max(example.image.shape) > 65_500:
            return example
        file = io.BytesIO()
        _picture(example.image).save(file, "JPEG", quality=quality)
        return example._replace(image=np.asarray(Image.open(file)))


def _picture(image: UInt8[np.ndarray, "h w 3"]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image))
