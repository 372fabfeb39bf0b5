"""Pictures as users have them, arrays, Pillow's or files, to pixels."""

from __future__ import annotations

import os
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ipg_jax.files import read_regular
from ipg_jax.images.decode import DEFAULT_OPTIONS, ImageOptions, decode_image, pil_to_rgb

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
