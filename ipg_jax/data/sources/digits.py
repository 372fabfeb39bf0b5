"""A small-object data set that needs no download: handwritten digits on textured backgrounds.

Scenes are composed on the fly from the 8x8 digits that scikit-learn ships (the test set of
Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository,
1998). A scene is a pure function of (seed, split, index).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from ipg_jax.data.sources.base import DataReport, Source, build_records

_SIDES = (8.0, 40.0)
"""Range of the longer side of a digit in pixels, sampled uniformly in its logarithm."""

_COUNTS = (3, 12)
"""Range of the number of digits that a scene tries to place."""

_MAX_COVERAGE = 0.1
"""How much of the smaller of two boxes the other one may cover."""

_INK = 5
"""Grey level, of 16, from which a pixel of a digit counts as ink."""


class _Scene(NamedTuple):
    """The layout of one scene: which digit stands where."""

    digits: list[int]
    boxes: Float[np.ndarray, "m 4"]


class DigitsSource(Source):
    """Scenes of 3 to 12 digits, 8 to 40 pixels large, of ten classes named "0" to "9".

    Boxes are tight around the ink. The splits use different digits: every fifth one is kept for
    `eval`. Annotations are computed at once, pictures when asked for.
    """

    def __init__(
        self,
        split: Literal["train", "eval"],
        *,
        num_scenes: int,
        scene_size: int = 192,
        seed: int = 0,
    ):
        """Lays out the scenes.

        Args:
          split: `train` or `eval`.
          num_scenes: number of images.
          scene_size: height and width of a scene in pixels, at least 48.
          seed: another seed gives other scenes.

        Raises:
          ValueError: the scenes are too small.
          ImportError: scikit-learn is not installed.
        """
        if scene_size < 48:
            raise ValueError(f"digit scenes need at least 48 x 48 pixels, got {scene_size}")
        self._glyphs, digit_labels = load_glyphs(split)
        self._seed = (seed, ("train", "eval").index(split))
        self._scene_size = scene_size
        self._scenes = [self._lay_out(index) for index in range(num_scenes)]
        counts = [len(scene.digits) for scene in self._scenes]
        labels = digit_labels[[digit for scene in self._scenes for digit in scene.digits]]
        name = f"digits {split}"
        report = DataReport(name)
        records = build_records(
            image_ids=list(range(num_scenes)),
            file_names=[f"{split} scene {index}" for index in range(num_scenes)],
            sizes=np.full((num_scenes, 2), scene_size, np.int32),
            image_index=np.repeat(np.arange(num_scenes), counts),
            boxes=np.concatenate([scene.boxes for scene in self._scenes]),
            labels=labels,
            ignore=np.zeros(len(labels), bool),
            area=np.full(len(labels), np.nan),
            keep=np.ones(num_scenes, bool),
            drop_empty=False,
            report=report,
        )
        super().__init__(
            name=name,
            class_names=[str(digit) for digit in range(10)],
            category_ids=range(10),
            records=records,
            report=report,
        )

    def load_image(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Paints scene `index`."""
        rng = self._rng(index, 1)
        canvas = background(self._scene_size, rng)
        scene = self._scenes[index]
        for digit, (x0, y0, x1, y1) in zip(scene.digits, scene.boxes.astype(int), strict=True):
            glyph = Image.fromarray(self._glyphs[digit])
            ink = np.asarray(glyph.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR))
            patch = canvas[y0:y1, x0:x1]
            patch += ink[..., None] * (_ink_color(patch, rng) - patch)
        canvas += rng.normal(0, 3, canvas.shape)
        return np.clip(np.round(canvas), 0, 255).astype(np.uint8)

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        """Randomness of one scene; layout and painting have a stream each."""
        seed, split = self._seed
        return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(split, index, stream)))

    def _lay_out(self, index: int) -> _Scene:
        rng = self._rng(index, 0)
        digits: list[int] = []
        boxes = np.zeros((0, 4))
        for _ in range(rng.integers(_COUNTS[0], _COUNTS[1], endpoint=True)):
            digit = int(rng.integers(len(self._glyphs)))
            glyph_size = np.array(self._glyphs[digit].shape)
            side = np.exp(rng.uniform(*np.log(_SIDES)))
            h, w = np.maximum(np.round(side * glyph_size / glyph_size.max()).astype(int), 3)
            # A few tries find a free position; a scene too full for that has one digit less.
            for _ in range(10):
                x, y = rng.integers([self._scene_size - w, self._scene_size - h], endpoint=True)
                box = np.array([x, y, x + w, y + h], np.float64)
                if _coverage(box, boxes).max(initial=0) <= _MAX_COVERAGE:
                    digits.append(digit)
                    boxes = np.concatenate([boxes, box[None]])
                    break
        return _Scene(digits, boxes)


def load_glyphs(split: str) -> tuple[list[Float32[np.ndarray, "_ _"]], np.ndarray]:
    """Opacity in [0, 1] of the digits of a split, cropped to their ink, and their labels."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "the digits data set needs scikit-learn: pip install 'ipg-jax[demo]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    chosen = (np.arange(len(labels)) % 5 == 4) == (split == "eval")
    glyphs = []
    for image in images[chosen].reshape(-1, 8, 8):
        rows = np.flatnonzero((image >= _INK).any(axis=1))
        columns = np.flatnonzero((image >= _INK).any(axis=0))
        ink = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        # Strokes are rarely at full intensity: the brighter half of the levels is opaque.
        glyphs.append(np.minimum(ink / 10, 1).astype(np.float32))
    return glyphs, labels[chosen].astype(np.int32)


def _coverage(box: np.ndarray, others: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, " m"]:
    """Intersection over the smaller area of one box with each of the others."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1)
    return np.prod(np.maximum(sides, 0), axis=1) / np.minimum(areas, np.prod(box[2:] - box[:2]))


def background(size: int, rng: np.random.Generator) -> Float[np.ndarray, "s s 3"]:
    """One of several textures around a random colour, in [0, 255]."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    match rng.integers(4):
        case 0:  # gradient
            angle = rng.uniform(0, 2 * np.pi)
            pattern = ((np.cos(angle) * x + np.sin(angle) * y) / size)[..., None]
        case 1:  # stripes
            angle, period = rng.uniform(0, np.pi), rng.uniform(6, 40)
            phase = 2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period
            pattern = np.sin(phase)[..., None]
        case 2:  # clouds
            pattern = _noise(size, 24, rng)
        case _:  # grain upon clouds
            pattern = 0.6 * _noise(size, 32, rng) + 0.6 * _noise(size, 4, rng)
    tint = rng.uniform(0.4, 1.0, 3)
    return rng.uniform(50, 205, 3) + rng.uniform(10, 30) * tint * pattern


def _noise(size: int, scale: int, rng: np.random.Generator) -> Float[np.ndarray, "s s 3"]:
    """Smooth noise with details of about `scale` pixels."""
    coarse = rng.normal(size=(3, size // scale + 2, size // scale + 2)).astype(np.float32)
    channels = [Image.fromarray(c).resize((size, size), Image.Resampling.BICUBIC) for c in coarse]
    return np.stack([np.asarray(channel) for channel in channels], axis=-1).astype(np.float64)


def _ink_color(patch: Float[np.ndarray, "h w 3"], rng: np.random.Generator) -> np.ndarray:
    """A colour that stands out from the patch, towards the side that has more room."""
    mean = patch.mean(axis=(0, 1))
    direction = 1 if mean.mean() < 128 else -1
    return np.clip(mean + direction * rng.uniform(70, 150) * rng.uniform(0.7, 1.0, 3), 0, 255)
