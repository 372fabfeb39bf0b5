"""The values that cross module borders: batches, detections and array aliases.

Conventions, everywhere in the package:

* boxes are `xyxy`, absolute pixels of the network input, float32;
* labels are int32 and 0-based, the background is `num_classes`;
* images are NHWC; sizes and scales are ordered (height, width), like the array axes;
* padding is described by a validity mask, never by zero boxes or magic labels.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import flax.struct
import jax
import numpy as np

Array: TypeAlias = jax.Array | np.ndarray
"""An array on a device or of NumPy."""

PyTree: TypeAlias = Any
"""A tree of arrays: dictionaries, tuples and dataclasses all the way down."""

ImageId: TypeAlias = int | str
"""A data set's own name of an image."""

Size: TypeAlias = tuple[int, int]
"""Height and width in pixels."""

IMAGE_BLOCK = 4
"""Side in pixels of the blocks of a `PackedImage`."""


class PackedImage(flax.struct.PyTreeNode):
    """Images in blocks of 4x4 pixels ("space to depth"), the layout that a TPU's stem reads.

    Attributes:
      blocks: `[B, H / 4, W / 4, 48]`, whose channels run over the rows of a block, its columns,
        then the image's channels.
    """

    blocks: Array

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the images that it stands for, `[B, H, W, 3]`."""
        b, h, w, channels = self.blocks.shape
        return b, IMAGE_BLOCK * h, IMAGE_BLOCK * w, channels // IMAGE_BLOCK**2

    @property
    def dtype(self) -> Any:
        """The type of the pixels."""
        return self.blocks.dtype

    @property
    def pixels(self) -> Array:
        """The images, `[B, H, W, 3]`."""
        b, h, w, channels = self.blocks.shape
        pixels = (IMAGE_BLOCK, IMAGE_BLOCK, channels // IMAGE_BLOCK**2)
        return self.blocks.reshape(b, h, w, *pixels).swapaxes(2, 3).reshape(self.shape)

    @classmethod
    def pack(cls, image: Array) -> PackedImage:
        """Packs images `[B, H, W, 3]`.

        Raises:
          ValueError: height or width is not a multiple of 4.
        """
        b, height, width, channels = image.shape
        if height % IMAGE_BLOCK or width % IMAGE_BLOCK:
            raise ValueError(
                f"height and width must be multiples of {IMAGE_BLOCK}, got {height} x {width}: "
                "pad the image"
            )
        h, w = height // IMAGE_BLOCK, width // IMAGE_BLOCK
        x = image.reshape(b, h, IMAGE_BLOCK, w, IMAGE_BLOCK, channels).swapaxes(2, 3)
        return cls(x.reshape(b, h, w, IMAGE_BLOCK**2 * channels))


class PackedFeatures(flax.struct.PyTreeNode):
    """Features `[b, 2 h, 4 w, c]` in blocks of 2x4 pixels.

    Attributes:
      upper: the first rows of the blocks, `[b, h, w, 4 c]`, whose channels run over the columns 0,
        2, 1 and 3 of a block, then features.
      lower: the second rows.
    """

    upper: Array
    lower: Array

    @property
    def features(self) -> int:
        """The number of features of a pixel, `c`."""
        return self.upper.shape[-1] // 4


Pyramid: TypeAlias = tuple[Array, ...]
"""Images `(I_0, ..., I_{N-1})`, `I_i` of shape `[batch, H / 2^i, W / 2^i, 3]`, uint8."""

PackedPyramid: TypeAlias = tuple[PackedImage, ...]
"""A pyramid whose levels are packed, which `config.data.space_to_depth` asks for."""


class Batch(flax.struct.PyTreeNode):
    """One padded batch of images and their ground truth.

    Attributes:
      pyramid: `N` levels, level `i` uint8 `[B, H / 2^i, W / 2^i, 3]`, zero outside the content; or
        the same packed.
      boxes: float32 `[B, M, 4]`, `xyxy` in pixels of level 0.
      labels: int32 `[B, M]`, 0-based; the number of classes for a region of no class.
      valid: bool `[B, M]`, False for padding rows.
      ignore: bool `[B, M]`, True for crowd and "difficult" objects: training leaves them out,
        evaluation treats them as its benchmark says. True for regions of no class, in which
        detections of any class count for nothing.
      image_size: int32 `[B, 2]`, height and width of the content in level 0.
      scale: float32 `[B, 2]`, input pixels per pixel of the original image, (y, x); 1 for a mosaic.
      image_id: int32 `[B]`, index of the record in its source (`source.image_ids[index]` is the
        data set's own name for it).
      weight: float32 `[B]`, 1 for an image and 0 for padding of the batch or an unreadable file.
    """

    pyramid: Pyramid | PackedPyramid
    boxes: Array
    labels: Array
    valid: Array
    ignore: Array
    image_size: Array
    scale: Array
    image_id: Array
    weight: Array


class Detections(flax.struct.PyTreeNode):
    """Boxes found in a batch of images, best first, padded to `D` a picture.

    Attributes:
      boxes: float32 `[B, D, 4]`, `xyxy` in pixels of the network input.
      scores: float32 `[B, D]`.
      labels: int32 `[B, D]`.
      valid: bool `[B, D]`, False for padding rows.
    """

    boxes: Array
    scores: Array
    labels: Array
    valid: Array
