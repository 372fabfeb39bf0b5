"""The page of augmentations holds the pictures that it should, and nothing from elsewhere."""

import dataclasses
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from page_reader import Reader

from ipg_jax import data
from ipg_jax.analysis.augmented import augmented_page
from ipg_jax.fields import real
from ipg_jax.visualize import class_color

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def source():
    return data.DigitsSource(split="train", num_scenes=4, scene_size=64)


SETTINGS = {"seed": 1, "image_size": (64, 64)}
CONFIGURED = (
    data.RandomCrop(size=(32, 48), tries=3),
    data.ColorJitter(probability=0.25),
)


def test_a_page_shows_all_together_each_alone_and_all_others(source):
    page = Reader(
        augmented_page(
            source, **SETTINGS, flip=0.5, augmentations=CONFIGURED, num_images=2, epochs=3
        )
    )
    assert page.texts["h2"] == ["The images", "All together", "Each of the run", "Others"]
    together, *alone = page.texts["code"]
    others = [name for name in data.AUGMENTATIONS if name not in ("random_crop", "color_jitter")]
    configured = ["random_crop (size=(32, 48), tries=3)", "color_jitter (probability=0.25)"]
    assert together == ", ".join(["config.data.flip=0.5", *configured])
    assert alone == ["flip", *configured, *others]
    # Below each picture is a legend, whose height goes by the number of classes.
    captions, pictures = page.texts["figcaption"], page.pixels()
    shapes = [tuple(map(int, text.split(", ")[1].split(" x "))) for text in captions]
    assert [picture.shape[1] for picture in pictures] == [width for _, width in shapes]
    assert [image["width"] for image in page.images] == [str(width) for _, width in shapes]
    assert len(shapes) == 2 + 2 * 3 + 2 * len(alone)
    assert shapes[:2] == [(64, 64)] * 2
    assert set(shapes[2:8]) | set(shapes[10:12]) == {(32, 48)}
    assert all("objects: " in caption for caption in captions)
    index = source.records.file_names.index(page.images[0]["title"])
    first = data.train_example(source, index, **SETTINGS, flip=0.0)
    x0, y0, x1, _ = first.objects.boxes[0].astype(int)
    above = pictures[0][max(y0 - 1, 0), (x0 + x1) // 2].astype(int)
    assert np.abs(above - class_color(int(first.objects.labels[0]))).max() < 80  # by JPEG


def test_names_are_escaped_and_what_cannot_be_read_is_said(source):
    names = [f"<b>{name}</b>" for name in source.records.file_names]
    source.records = dataclasses.replace(source.records, file_names=names)
    load = source.load_image

    def load_image(index):
        if index == 2:
            raise OSError("gone")
        return load(index)

    source.load_image = load_image
    page = Reader(augmented_page(source, **SETTINGS, flip=0.0, augmentations=(), num_images=4))
    assert "b" not in page.texts
    assert any("<b>" in caption for caption in page.texts["figcaption"])
    assert any("is unreadable" in text for text in page.texts["p"])


def test_a_user_s_augmentation_is_shown_and_one_that_needs_options_is_not(source, monkeypatch):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Darken(data.Augmentation):
        least: float = data.option(real(0.0, 1.0))

        def apply(self, example, rng, images):
            return example._replace(image=example.image // 2)

    monkeypatch.setitem(data.AUGMENTATIONS, "darken", Darken)
    settings = {**SETTINGS, "flip": 0.0, "num_images": 1}
    page = Reader(augmented_page(source, **settings, augmentations=(Darken(least=0.5),)))
    assert "darken (least=0.5)" in page.texts["code"]
    assert (
        "darken" not in Reader(augmented_page(source, **settings, augmentations=())).texts["code"]
    )


def test_the_command_line_writes_it(tmp_path):
    command = [
        *(sys.executable, "-m", "ipg_jax.cli.inspect", "--config=digits_ipg"),
        *("--config.data.train_scenes=3", "--config.data.augmentations=(('mosaic', {}),)"),
        *("--augmented", "--images=1", "--epochs=1", f"--html={tmp_path}/new/a.html"),
    ]
    page, refused = tmp_path / "new" / "a.html", "leave out --json and --data=eval"
    for more, code, said in [([], 0, f"wrote {page}\n"), (["--json=a", "--data=eval"], 2, refused)]:
        done = subprocess.run(
            [*command, *more], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert said in done.stdout + done.stderr
    read = Reader(page.read_text())
    assert "mosaic" in read.texts["code"]
    # Of the image, all together, the mosaic and the nine others.
    assert len(read.images) == 12
