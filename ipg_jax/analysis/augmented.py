"""A page that shows what augmentations make of a data set's images, with their boxes."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ipg_jax import data
from ipg_jax.analysis.elements import document, figures, note, section
from ipg_jax.analysis.pictures import Picture
from ipg_jax.text import shown
from ipg_jax.visualize import add_legend, draw_boxes

WIDTH = 390
"""Pixels of the page that an image of the run's size takes."""

_ENLARGE = """<script>
document.addEventListener("click", event => {
  if (event.target.tagName === "IMG") event.target.classList.toggle("large");
});
</script>"""


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

    what = ", ".join([f"config.data.flip={flip:g}", *(_named(one, names) for one in augmentations)])
    parts = [
        section("The images", note("As they are in the data, in the run's size."), row(plain)),
        section(
            "All together",
            f"<p>In the first epochs: <code>{html.escape(what)}</code></p>",
            row(plain | {"flip": flip, "augmentations": augmentations}, epochs),
        ),
        section("Each of the run", note("Alone, and applied to every image.")),
    ]
    if flip:
        parts.append(_part("flip", row(plain | {"flip": 1.0})))
    for one in augmentations:
        always = dataclasses.replace(one, probability=1.0)
        parts.append(_part(_named(one, names), row(plain | {"augmentations": (always,)})))
    parts.append(section("Others", note("Known by name, with their defaults.")))
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
        title = f"{name}, size={options['size']}" if "size" in options else name
        parts.append(_part(title, row(plain | {"augmentations": (one,)})))
    title = f"Augmentations on {shown(source.name)}"
    return document(
        title,
        f"<h1>{html.escape(title)}</h1>",
        f"<p>Seed {seed}; config.image_size={image_size}. Boxes have the colours of their classes; "
        "regions to ignore are grey and crossed out. A click enlarges a picture.</p>",
        *parts,
        _ENLARGE,
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
    pictures, notes = [], []
    zoom = min(1.0, WIDTH / max(settings["image_size"]))
    for index in indices:
        for epoch in range(epochs):
            try:
                example = data.train_example(source, index, epoch=epoch, **settings)
            except ValueError as error:
                notes.append(note(str(error)))
                break
            pictures.append(_picture(source, index, example, zoom))
    return (figures("samples", pictures) if pictures else "") + "".join(notes)


def _picture(source: data.Source, index: int, example: data.Example, zoom: float) -> Picture:
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
    name = shown(source.records.file_names[index])
    caption = f"{name}, {height} x {width}, {counts}"
    return Picture(drawn, caption, name, max(round(zoom * width), 1))


def _named(one: data.Augmentation, names: Mapping[type[data.Augmentation], str]) -> str:
    """The augmentation as a config lists it, with the options that are not the defaults."""
    options = [
        f"{field.name}={getattr(one, field.name)}"
        for field in dataclasses.fields(one)
        if getattr(one, field.name) != field.default
    ]
    name = names.get(type(one), type(one).__name__)
    return f"{name} ({', '.join(options)})" if options else name


def _part(title: str, pictures: str) -> str:
    return f"<h3><code>{html.escape(title)}</code></h3>{pictures}"
