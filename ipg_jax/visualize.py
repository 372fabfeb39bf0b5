"""Boxes and activations on pictures, drawn with Pillow alone."""

from __future__ import annotations

import colorsys
import io
import itertools
import math
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from etils import epath
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from ipg_jax.files import make_folder, write_whole
from ipg_jax.types import Array

_GOLDEN_RATIO = (math.sqrt(5.0) - 1.0) / 2.0
_BACKGROUND = (24, 24, 27)
_FOREGROUND = (240, 240, 240)
_IGNORED = (160, 160, 160)
# From none to strongest; lightness rises all the way, so that it also reads without colours.
_HEAT = np.array([(0, 0, 60), (110, 0, 140), (220, 60, 80), (250, 160, 40), (255, 255, 190)])
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont
_Rectangle: TypeAlias = tuple[int, int, int, int]

Captions: TypeAlias = Literal["auto", "none", "scores", "all"]
"""What is written at a box; see `draw_boxes`."""


def class_color(label: int) -> tuple[int, int, int]:
    """RGB colour of a class, the same in every picture and run.

    Hues advance by the golden ratio, which keeps any first few classes far apart; lightness
    alternates among three, so that neighbours in hue differ too.
    """
    hue = (0.02 + label * _GOLDEN_RATIO) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, (0.55, 0.42, 0.68)[label % 3], 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw_boxes(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "n 4"],
    labels: Int[np.ndarray, " n"],
    class_names: Sequence[str],
    scores: Float[np.ndarray, " n"] | None = None,
    *,
    captions: Captions = "auto",
    line_width: int | None = None,
    ignore: Bool[np.ndarray, " n"] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """A copy of the image with boxes around its objects, and what they are.

    Lines and text have the size of the picture, and less where most objects are small. The
    best-scored boxes (the first ones, without scores) lie on top, and their captions come first.
    No caption lies over another one or beyond the picture; one wider than that loses its end.

    Args:
      image: RGB.
      boxes: `xyxy` in pixels of the image.
      labels: 0-based classes.
      class_names: name of each label.
      scores: of each box, best 1.
      captions: `auto` writes name and score where that covers no object, else the score alone, else
        nothing: the colour still tells the class (`add_legend`). `scores` leaves the names out,
        `none` both. `all` writes name and score wherever no other caption is.
      line_width: in pixels, instead of one that fits.
      ignore: True for regions to ignore, which are grey, crossed out and without a caption.
    """
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    side = _typical_side(boxes, height, width)
    line = line_width or max(1, round(min(min(height, width) / 250, side / 12)))
    font = ImageFont.load_default(max(10, round(min(min(height, width) / 36, 0.6 * side))))
    order = list(range(len(boxes)))
    if scores is not None:
        order = np.argsort(-scores, kind="stable").tolist()

    outlines = [_outline(box, line, width, height) for box in boxes]
    if ignore is not None:
        for left, top, right, bottom in itertools.compress(outlines, ignore):
            draw.rectangle((left, top, right, bottom), outline=_IGNORED, width=line)
            draw.line((left, top, right, bottom), fill=_IGNORED, width=line)
            draw.line((left, bottom, right, top), fill=_IGNORED, width=line)
        order = [i for i in order if not ignore[i]]
    for i in reversed(order):
        draw.rectangle(outlines[i], outline=class_color(int(labels[i])), width=line)
    covering = [outlines[i] for i in order] if captions != "all" else []
    objects = np.array(covering, np.int64).reshape(-1, 4)
    taken = np.zeros((0, 4), np.int64)
    for i in order:  # the best choose their place first
        name = class_names[labels[i]]
        score = "" if scores is None else f"{scores[i]:.2f}"
        texts = {
            "auto": (f"{name} {score}".rstrip(), score),
            "all": (f"{name} {score}".rstrip(),),
            "scores": (score,),
            "none": (),
        }[captions]
        for text in filter(None, texts):
            size = _caption_size(text, font)
            place = _place(outlines[i], size, taken, objects, width, height)
            if place is not None:
                taken = np.concatenate([taken, [place]])
                color = class_color(int(labels[i]))
                draw.rectangle(place, fill=color)
                _write(draw, place[:2], text, font, _readable_on(color))
                break
    return np.array(picture)


def add_legend(
    image: UInt8[np.ndarray, "h w 3"], labels: Int[np.ndarray, " n"], class_names: Sequence[str]
) -> UInt8[np.ndarray, "h2 w 3"]:
    """The picture above a strip with the colour, name and number of each class that is in it.

    Args:
      image: RGB, with the boxes of `draw_boxes`.
      labels: 0-based classes of the boxes.
      class_names: name of each label.
    """
    width = image.shape[1]
    font = _font(image.shape)
    entries = [
        (class_color(int(label)), f"{class_names[label]} {count}")
        for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
    ]
    line = _caption_size("", font)[1]
    places, x, y = [], 0, 0
    for _, text in entries:
        length = line + _caption_size(text, font)[0]
        if x and x + length > width:
            x, y = 0, y + line
        places.append((x, y))
        x += length + line // 2
    strip = Image.new("RGB", (width, y + line if entries else 0), _BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for (color, text), (x, y) in zip(entries, places, strict=True):
        margin = line // 5
        draw.rectangle((x + margin, y + margin, x + line - margin, y + line - margin), fill=color)
        _write(draw, (x + line, y), text, font, _FOREGROUND)
    return np.concatenate([image, np.array(strip).reshape(-1, width, 3)])


def draw_activation(
    image: UInt8[np.ndarray, "h w 3"], feature: Float[Array, "fh fw c"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in grey under a heat map of how strongly a feature responds at each place.

    The strength is the root mean square over channels, coloured from the feature's own least (dark)
    to its own largest value (light); pictures of different features do not share a scale. Each cell
    of the feature is drawn as a rectangle, so that its resolution shows.

    Args:
      image: RGB, as the network saw it, padding included.
      feature: an activation of any size over the same extent, such as `fused3` of a guided backbone
        (see `IPGNet.__call__`).
    """
    strength = np.sqrt(np.square(np.asarray(feature, np.float32)).mean(axis=-1))
    strength = strength - strength.min()
    strength /= max(strength.max(), np.finfo(np.float32).tiny)
    height, width = image.shape[:2]
    cells = Image.fromarray(strength).resize((width, height), Image.Resampling.NEAREST)
    stops = np.linspace(0, 1, len(_HEAT))
    heat = np.stack([np.interp(np.asarray(cells), stops, channel) for channel in _HEAT.T], axis=-1)
    grey = np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    return np.round(0.4 * grey + 0.6 * heat).astype(np.uint8)


def side_by_side(
    left: UInt8[np.ndarray, "h1 w1 3"],
    right: UInt8[np.ndarray, "h2 w2 3"],
    titles: tuple[str, str] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Two pictures in a row, such as predictions and ground truth, with titles above if given."""
    return contact_sheet([left, right], columns=2, titles=titles)


def contact_sheet(
    images: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    columns: int,
    titles: Sequence[str] | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Pictures in a grid, row by row, in cells of the largest picture's size.

    Args:
      images: at least one picture; sizes may differ.
      columns: pictures in a row; fewer pictures make a shorter row.
      titles: what stands above each picture, if given.

    Raises:
      ValueError: if there is no picture, `columns` is not positive, or titles and pictures are not
        equally many.
    """
    if not images or columns < 1:
        raise ValueError(f"a sheet needs images and columns, got {len(images)} and {columns}")
    if titles is not None:
        images = [_titled(*pair) for pair in zip(images, titles, strict=True)]
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    cell_height, cell_width = (max(image.shape[axis] for image in images) for axis in range(2))
    gap = max(2, round(min(cell_height, cell_width) / 100))
    sheet = np.empty(
        (rows * (cell_height + gap) - gap, columns * (cell_width + gap) - gap, 3), np.uint8
    )
    sheet[:] = _BACKGROUND
    for i, image in enumerate(images):
        top, left = i // columns * (cell_height + gap), i % columns * (cell_width + gap)
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    return sheet


def save_image(path: epath.PathLike, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a picture as PNG, local or `gs://`, making parent directories."""
    path = epath.Path(path)
    make_folder(path.parent)
    write_whole(path, encode_png(image))


def encode_png(image: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Returns the contents of a PNG file of a picture."""
    encoded = io.BytesIO()
    # A third of the default's time, which is as long as a small detector takes, in 1.1 x the bytes.
    Image.fromarray(image).save(encoded, format="PNG", compress_level=3)
    return encoded.getvalue()


def _titled(image: np.ndarray, title: str) -> np.ndarray:
    """The picture below a bar with its title."""
    font = _font(image.shape)
    bar = Image.new("RGB", (image.shape[1], _caption_size(title, font)[1]), _BACKGROUND)
    _write(ImageDraw.Draw(bar), (0, 0), title, font, _FOREGROUND)
    return np.concatenate([np.array(bar), image])


def _outline(box: np.ndarray, line: int, width: int, height: int) -> _Rectangle:
    """First and last pixels of a frame around the box, as far as the picture goes.

    The frame surrounds the box, so that a small object stays visible inside.
    """
    x1, y1, x2, y2 = np.round(box).astype(int).tolist()
    left, top = (min(max(v - line, 0), end - 1) for v, end in ((x1, width), (y1, height)))
    right, bottom = (max(v + line - 1, first) for v, first in ((x2, left), (y2, top)))
    return left, top, min(right, width - 1), min(bottom, height - 1)


def _typical_side(boxes: np.ndarray, height: int, width: int) -> float:
    """The middle one of the boxes' shorter sides in pixels; the picture's without boxes."""
    if not len(boxes):
        return float(min(height, width))
    return float(np.median((boxes[:, 2:] - boxes[:, :2]).min(axis=1)))


def _place(
    frame: _Rectangle,
    size: tuple[int, int],
    taken: np.ndarray,
    objects: np.ndarray,
    width: int,
    height: int,
) -> _Rectangle | None:
    """Where a caption goes: above its box, inside or below, at the first place that is free.

    That is one where no caption is, and where it covers at most a tenth of each object.
    """
    left = max(0, min(frame[0], width - size[0]))
    right = max(0, min(frame[2] + 1 - size[0], width - size[0]))
    for x in (left, right):
        for y in (frame[1] - size[1], frame[1], frame[3] + 1, frame[3] + 1 - size[1]):
            y = max(0, min(y, height - size[1]))
            place = x, y, min(x + size[0], width) - 1, min(y + size[1], height) - 1
            if not _covered(place, taken).any() and (_covered(place, objects) <= 0.1).all():
                return place
    return None


def _covered(place: _Rectangle, others: np.ndarray) -> np.ndarray:
    """Which share of each of the other rectangles lies under one; all hold first and last pixel."""
    shared = np.minimum(others[:, 2:], place[2:]) - np.maximum(others[:, :2], place[:2]) + 1
    sides = others[:, 2:] - others[:, :2] + 1
    return shared.clip(0).prod(axis=1) / sides.prod(axis=1)


def _font(shape: Sequence[int]) -> _Font:
    """Pillow's own font; below ten pixels its letters cannot be told apart."""
    return ImageFont.load_default(max(10, round(min(shape[:2]) / 36)))


def _text_box(font: _Font) -> tuple[int, int, int]:
    """Top and bottom of a line of text, the same for every text, and the margin around it."""
    _, top, _, bottom = font.getbbox("\u00c5g")
    return math.floor(top), math.ceil(bottom), max(1, round((bottom - top) / 8))


def _caption_size(text: str, font: _Font) -> tuple[int, int]:
    top, bottom, margin = _text_box(font)
    return math.ceil(font.getlength(text)) + 2 * margin, bottom - top + 2 * margin


def _write(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    text: str,
    font: _Font,
    color: tuple[int, int, int],
) -> None:
    """Writes into the rectangle of `_caption_size` whose top left corner is given."""
    top, _, margin = _text_box(font)
    draw.text((corner[0] + margin, corner[1] + margin - top), text, fill=color, font=font)


def _readable_on(color: tuple[int, int, int]) -> tuple[int, int, int]:
    """Black or white, whichever stands out more (luma of ITU-R BT.601)."""
    luma = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2]
    return (0, 0, 0) if luma > 140 else (255, 255, 255)
