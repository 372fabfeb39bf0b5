"""The page of augmentations holds the pictures that it should, and nothing from elsewhere."""

import base64
import dataclasses
import io
import os
import pathlib
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from ipg_jax import data
from ipg_jax.analysis.augmented import augmented_page
from ipg_jax.fields import real
from ipg_jax.visualize import class_color

ROOT = pathlib.Path(__file__).parents[2]


class Page(HTMLParser):
    """The texts of a page by their tags, and its pictures."""

    def __init__(self, text: str):
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.images: list[tuple[str, np.ndarray]] = []
        self.links: list[str] = []
        self.tag = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tag = tag
        for name, value in attributes:
            if name in ("src", "href"):
                self.links.append(value)
                kind, _, code = value.partition(",")
                assert kind == "data:image/jpeg;base64"
                picture = Image.open(io.BytesIO(base64.b64decode(code, validate=True)))
                self.images.append((dict(attributes)["alt"], np.asarray(picture)))

    def handle_data(self, text):
        if text.strip():
            self.texts.setdefault(self.tag, []).append(text.strip())


@pytest.fixture
def source():
    return data.DigitsSource(split="train", num_scenes=4, scene_size=64)


SETTINGS = {"seed": 1, "image_size": (64, 64)}
CONFIGURED = (
    data.RandomCrop(size=(32, 48), tries=3),
    data.ColorJitter(probability=0.25),
)


def test_a_page_shows_all_together_each_alone_and_all_others(source):
    text = augmented_page(
        source, **SETTINGS, flip=0.5, augmentations=CONFIGURED, num_images=2, epochs=3
    )
    page = Page(text)
    assert "http" not in text
    assert "url(" not in text
    assert page.texts["h2"] == ["The images", "All together", "Each of the run", "Others"]
    together, *alone = page.texts["code"]
    others = [name for name in data.AUGMENTATIONS if name not in ("random_crop", "color_jitter")]
    configured = ["random_crop (size=(32, 48), tries=3)", "color_jitter (probability=0.25)"]
    assert together == ", ".join(["config.data.flip=0.5", *configured])
    assert alone == ["flip", *configured, *others]
    # Below each picture is a legend, whose height goes by the number of classes.
    sizes = [caption.split(", ")[1] for caption, _ in page.images]
    assert all(
        image.shape[1] == int(size.split(" x ")[1])
        for size, (_, image) in zip(sizes, page.images, strict=True)
    )
    shapes = [tuple(map(int, size.split(" x "))) for size in sizes]
    assert len(shapes) == 2 + 2 * 3 + 2 * len(alone)
    assert shapes[:2] == [(64, 64)] * 2
    assert set(shapes[2:8]) | set(shapes[10:12]) == {(32, 48)}
    assert all("objects: " in caption for caption, _ in page.images)
    first = data.train_example(source, _index(source, page.images[0][0]), **SETTINGS, flip=0.0)
    x0, y0, x1, _ = first.objects.boxes[0].astype(int)
    above = page.images[0][1][max(y0 - 1, 0), (x0 + x1) // 2].astype(int)
    assert np.abs(above - class_color(int(first.objects.labels[0]))).max() < 80  # by JPEG


def _index(source, caption: str) -> int:
    return source.records.file_names.index(caption.partition(",")[0])


def test_names_are_escaped_and_what_cannot_be_read_is_said(source):
    names = [f"<b>{name}</b>" for name in source.records.file_names]
    source.records = dataclasses.replace(source.records, file_names=names)
    load = source.load_image

    def load_image(index):
        if index == 2:
            raise OSError("gone")
        return load(index)

    source.load_image = load_image
    page = Page(augmented_page(source, **SETTINGS, flip=0.0, augmentations=(), num_images=4))
    assert "b" not in page.texts
    assert any("<b>" in caption for caption, _ in page.images)
    assert any("is unreadable" in text for text in page.texts["p"])


def test_a_user_s_augmentation_is_shown_and_one_that_needs_options_is_not(source, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Darken(data.Augmentation):
        least: float = data.option(real(0.0, 1.0))

        def apply(self, example, rng, images):
            return example._replace(image=example.image // 2)

    monkeypatch.setitem(data.AUGMENTATIONS, "darken", Darken)
    settings = {**SETTINGS, "flip": 0.0, "num_images": 1}
    page = Page(augmented_page(source, **settings, augmentations=(Darken(least=0.5),)))
    assert "darken (least=0.5)" in page.texts["code"]
    assert "darken" not in Page(augmented_page(source, **settings, augmentations=())).texts["code"]


def test_the_command_line_writes_it(tmp_path):
    command = [sys.executable, "-m", "ipg_jax.cli.inspect", "--config=digits_ipg"]
    changes = ["--config.data.train_scenes=3", "--config.data.augmentations=(('mosaic', {}),)"]
    result = subprocess.run(
        [
            *command,
            *changes,
            "--augmented",
            "--images=1",
            "--epochs=1",
            f"--html={tmp_path}/new/a.html",
        ],
        cwd=ROOT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"wrote {tmp_path}/new/a.html\n"
    page = Page((tmp_path / "new" / "a.html").read_text())
    assert "mosaic" in page.texts["code"]
    # Of the image, all together, the mosaic and the nine others.
    assert len(page.images) == 12
