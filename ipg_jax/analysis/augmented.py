"""A page that shows what augmentations make of a data set's images, with their boxes."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from ipg_jax import data
from ipg_jax.visualize import add_legend, draw_boxes

WIDTH = 390
"""Pixels of the page that an image of the run's size takes."""

STYLE = """
body { margin: 2rem; font: 15px/1.5 system-ui, sans-serif; color: #18181b; background: #fafafa; }
h2 { margin: 2.5rem 0 0; }
h3 { margin: 1.5rem 0 0; font-size: 1rem; }
code { background: #e4e4e7; padding: 0 .3em; border-radius: 3px; }
p { margin: .2rem 0 .6rem; max-width: 60rem; color: #52525b; }
.row { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-start; }
figure { margin: 0; }
figure img { display: block; cursor: zoom-in; }
figure img.large { width: auto; cursor: zoom-out; }
figcaption { max-width: 24rem; font-size: 12px; color: #71717a; }
"""

ENLARGE = """
document.addEventListener("click", event => {
  if (event.target.tagName === "IMG") event.target.classList.toggle("large");
});
"""


def augmented_page(
    source: data.Source,
    *,
    seed: int,
    image_size: tuple[int, int],
    flip: float,
    augmentations: Sequence[data.Augmentation],
    num_images: int = 3,
    epochs: int = 3,
) -> str:
    """Returns an HTML page, which needs no other file and no network.

    It shows some images as they are in the data, after all of a run's augmentations in its first
    epochs, after each of these alone, and after each of the other known ones with its defaults.
    Those shown alone are applied to every image, whatever their probability.

    Args:
      source: the training data.
      seed: of the run; it also decides which images are shown.
      image_size: limits of the (short, long) side of the resized images.
      flip: the run's probability of mirroring an image.
      augmentations: the run's.
      num_images: how many images are shown, of those with objects if there are enough.
      epochs: how often each is shown with all augmentations.
    """
    indices = _choose(source, num_images, seed)
    plain: dict[str, Any] = {"seed": seed, "image_size": image_size, "flip": 0.0}
    names = {kind: name for name, kind in data.AUGMENTATIONS.items()}

    def row(settings: Mapping[str, Any], epochs: int = 1) -> str:
        return _row(source, indices, settings, epochs)

    parts = [_section("The images", "As they are in the data, in the run's size.", row(plain))]
    together = row(plain | {"flip": flip, "augmentations": augmentations}, epochs)
    what = ", ".join([f"config.data.flip={flip:g}", *(_named(one, names) for one in augmentations)])
    parts.append(
        _section("All together", f"In the first epochs: <code>{html.escape(what)}</code>", together)
    )
    parts.append(_section("Each of the run", "Alone, and applied to every image.", ""))
    shown = {"flip": row(plain | {"flip": 1.0})} if flip else {}
    for one in augmentations:
        always = dataclasses.replace(one, probability=1.0)
        shown[_named(one, names)] = row(plain | {"augmentations": (always,)})
    parts += [_part(name, pictures) for name, pictures in shown.items()]
    parts.append(_section("Others", "Known by name, with their defaults.", ""))
    for name, kind in data.AUGMENTATIONS.items():
        if kind in map(type, augmentations):
            continue
        options: dict[str, Any] = {"probability": 1.0}
        if kind is data.RandomCrop:  # the only option without a default
            options["size"] = tuple(max(side // 2, 1) for side in image_size)
        try:
            one = kind(**options)
        except TypeError:  # one of the user's, with options that must be given
            continue
        note = f"{name}, size={options['size']}" if "size" in options else name
        parts.append(_part(note, row(plain | {"augmentations": (one,)})))
    title = html.escape(f"Augmentations on {source.name}")
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{title}</h1>\n"
        f"<p>Seed {seed}; config.image_size={image_size}. Boxes have the colours of their classes; "
        "regions to ignore are grey and crossed out. A click enlarges a picture.</p>\n"
        f"{''.join(parts)}<script>{ENLARGE}</script>\n</html>\n"
    )


def _choose(source: data.Source, count: int, seed: int) -> list[int]:
    """Images with objects, in a random order, and then those without."""
    order = np.random.default_rng(seed).permutation(len(source))
    empty = np.diff(source.records.offsets)[order] == 0
    return order[np.argsort(empty, kind="stable")][:count].tolist()


def _row(
    source: data.Source, indices: Sequence[int], settings: Mapping[str, Any], epochs: int
) -> str:
    """Pictures of the images in these epochs; what cannot be read is said in words."""
    figures = []
    zoom = min(1.0, WIDTH / max(settings["image_size"]))
    for index in indices:
        for epoch in range(epochs):
            try:
                example = data.train_example(source, index, epoch=epoch, **settings)
            except ValueError as error:
                figures.append(f"<p>{html.escape(str(error))}</p>")
                break
            figures.append(_figure(source, index, example, zoom))
    return f'<div class="row">{"".join(figures)}</div>\n'


def _figure(source: data.Source, index: int, example: data.Example, zoom: float) -> str:
    """One picture, which is shown `zoom` times as large as the network sees it."""
    objects = example.objects
    drawn = draw_boxes(
        example.image, objects.boxes, objects.labels, source.class_names, ignore=objects.ignore
    )
    drawn = add_legend(drawn, objects.labels[~objects.ignore], source.class_names)
    height, width = example.size
    ignored = int(objects.ignore.sum())
    counts = f"objects: {len(objects.boxes) - ignored}" + (
        f", to ignore: {ignored}" * (ignored > 0)
    )
    caption = html.escape(f"{source.records.file_names[index]}, {height} x {width}, {counts}")
    return (
        f'<figure><img alt="{caption}" width="{max(round(zoom * width), 1)}" '
        f'src="{_data_uri(drawn)}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )


def _data_uri(image: UInt8[np.ndarray, "h w 3"]) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _named(one: data.Augmentation, names: Mapping[type[data.Augmentation], str]) -> str:
    """The augmentation as a config lists it, with the options that are not the defaults."""
    options = [
        f"{field.name}={getattr(one, field.name)}"
        for field in dataclasses.fields(one)
        if getattr(one, field.name) != field.default
    ]
    name = names.get(type(one), type(one).__name__)
    return f"{name} ({', '.join(options)})" if options else name


def _section(title: str, note: str, content: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n<p>{note}</p>\n{content}"


def _part(title: str, pictures: str) -> str:
    return f"<h3><code>{html.escape(title)}</code></h3>\n{pictures}"
