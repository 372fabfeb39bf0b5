"""Damaged VOC folders: read by the rules, or refused by name."""

import functools
import os
import random
import shutil

import pytest
from made_files import VocFolder
from mutators import limited_memory, mutate_bytes, mutate_folder, mutate_xml, outcome
from same_data import is_silent

from ipg_jax.data import VocSource


@pytest.fixture
def voc(tmp_path):
    folder = VocFolder(tmp_path)
    folder.add("a", ("cat", (1, 2, 7, 8), 0), ("dog", (2, 1, 12, 5), 1), size=(8, 12))
    folder.add("b", ("dog", (3, 3, 9, 7), 0), size=(8, 12), suffix="png")
    folder.split("train", "a", "b")
    return folder


def read(voc):
    return VocSource(voc.root, "train", class_names=("cat", "dog"), threads=2)


def test_xml(voc):
    sound = read(voc)
    path = voc.root / "Annotations" / "a.xml"
    text = path.read_text()
    changed = 0
    with limited_memory():
        for seed in range(350):
            damaged, replaced = mutate_xml(random.Random(seed), text)
            path.write_text(damaged)
            found = outcome(lambda: read(voc), "train.txt")
            if found is not None and replaced:
                assert not is_silent(found, sound), f"seed {seed}: {damaged}"
                changed += found.report.counts != sound.report.counts
    assert changed > 80


@pytest.mark.parametrize("name", ["Annotations/a.xml", "ImageSets/Main/train.txt"])
def test_bytes(voc, name):
    path = voc.root / name
    data = path.read_bytes()
    with limited_memory():
        for seed in range(100):
            path.write_bytes(mutate_bytes(random.Random(seed), data))
            outcome(lambda: read(voc), "train.txt")


def test_flat_folders(voc, tmp_path):
    flat = tmp_path / "flat"
    for stem, suffix, split in (("a", "jpg", "train"), ("b", "png", "train/more")):
        (flat / split).mkdir(parents=True)
        shutil.copy(voc.root / "JPEGImages" / f"{stem}.{suffix}", flat / split)
        shutil.copy(voc.root / "Annotations" / f"{stem}.xml", flat / split)
    lost = 0
    for seed in range(60):
        rng = random.Random(seed)
        root = shutil.copytree(flat, tmp_path / f"copy{seed}")
        for _ in range(rng.randrange(1, 5)):
            mutate_folder(rng, root)
        for split in (".", "train", "train+."):
            read_split = functools.partial(
                VocSource, root, split, class_names=("cat", "dog"), threads=2
            )
            source = outcome(read_split, str(root))
            if source is None:
                continue
            # Each file once, and none left out without a word.
            paths = [os.path.realpath(path) for path in source.paths]
            assert len(set(paths)) == len(paths), f"seed {seed}: {paths}"
            assert source.expected_images >= 2, f"seed {seed}: {source.report}"
            assert all(source.try_load_image(i) is not None for i in range(len(source)))
            lost += source.report.lost
    assert lost > 10
