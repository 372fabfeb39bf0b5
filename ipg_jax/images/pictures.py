"""Pictures as users have them, arrays, Pillow's or files, to pixels."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ipg_jax.files import read_regular
from ipg_jax.images.decode import DEFAULT_OPTIONS, ImageOptions, decode_image, pil_to_rgb
from ipg_jax.text import shown

Picture: TypeAlias = np.ndarray | Image.Image | str | os.PathLike[str]
"""A picture: uint8 `[h, w, 3]` in RGB, an image of Pillow's, or a path, local or `gs://`."""


def read_picture(
    picture: Picture, options: ImageOptions = DEFAULT_OPTIONS
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of a picture in RGB.

    Args:
      picture: the picture.
      options: how files and images of Pillow's are read.

    Raises:
      OSError: the file cannot be read; the message names it, as the next.
      ValueError: it is no image, or an array is not uint8 `[h, w, 3]`, or empty.
      TypeError: it is something else.
    """
    if isinstance(picture, str | os.PathLike):
        data = read_regular(picture)
        try:
            return decode_image(data, options=options)
        except ValueError as error:
            raise ValueError(f"{shown(picture)}: {error}") from error
    if isinstance(picture, Image.Image):
        picture = pil_to_rgb(picture, options) if all(picture.size) else np.asarray(picture)
    if not isinstance(picture, np.ndarray):
        raise TypeError(
            f"a {type(picture).__name__} is no picture: those are paths, images of Pillow's and "
            "NumPy's arrays, one or a list of them; Detector.stream takes any iterable of them"
        )
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(
            f"an array of {picture.dtype} {list(picture.shape)} is no picture: it has to be uint8 "
            "[height, width, 3], in RGB"
        )
    if not picture.size:
        raise ValueError(f"the picture {list(picture.shape)} is empty")
    return picture
