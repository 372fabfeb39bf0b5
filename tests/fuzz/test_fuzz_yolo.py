"""Damaged YOLO data sets: read by the rules, or refused by name."""

import random
import shutil

import pytest
from made_files import encode, random_image
from mutators import limited_memory, mutate_bytes, mutate_folder, outcome

from ipg_jax.data import YoloSource

FILES = {
    "data.yaml": b"path: .\ntrain: [images/a, list.txt]\nnames: {0: cat, 1: dog}\nnc: 2\n",
    "list.txt": b"images/b/2.png\n./images/a/1.png\n",
    "labels/a/1.txt": b"0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.4 0.2 0.3 0.8\n",
    "labels/b/2.txt": b"1 0.25 0.75 0.5 0.125\n",
    "images/a/1.png": encode(random_image(8, 12)),
    "images/b/2.png": encode(random_image(12, 8)),
}


@pytest.fixture
def root(tmp_path):
    for name, data in FILES.items():
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return tmp_path / "set"


def read(root):
    return YoloSource(root, "train", threads=2)


@pytest.mark.parametrize("name", ["data.yaml", "list.txt", "labels/a/1.txt"])
def test_bytes(root, name):
    changed = 0
    sound = read(root).records
    with limited_memory():
        for seed in range(120):
            (root / name).write_bytes(mutate_bytes(random.Random(seed), FILES[name]))
            found = outcome(lambda: read(root), "data.yaml", "list.txt")
            changed += found is None or len(found.records.boxes) != len(sound.boxes)
    assert changed > 20


def test_folders(root, tmp_path):
    for seed in range(40):
        rng = random.Random(seed)
        copy = shutil.copytree(root, tmp_path / f"copy{seed}")
        for _ in range(rng.randrange(1, 5)):
            mutate_folder(rng, copy)
        source = outcome(lambda copy=copy: read(copy), str(copy))
        if source is not None:
            assert all(source.try_load_image(i) is not None for i in range(len(source)))
