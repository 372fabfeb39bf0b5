"""Damaged COCO files: read by the rules, or refused by name."""

import json
import random

import pytest
from made_files import CocoFolder
from mutators import REMOVED, limited_memory, mutate_bytes, mutate_tree, outcome, repeat_value
from same_data import is_silent

from ipg_jax.data import CocoSource


@pytest.fixture
def coco(tmp_path):
    """Every field that is read; one object is a crowd, one is ignored."""
    folder = CocoFolder(tmp_path)
    for image_id in (1, 2, 3):
        folder.add_image(image_id, size=(8, 12))
        folder.add_box(image_id, 1, 2, 3, 4, area=9, ignore=0, segmentation=[[1, 2, 4, 2, 4, 6]])
        folder.add_box(image_id, 2, 1, 5.5, 5, area=20.5, category_id=7, ignore=0)
    folder.content["annotations"][1]["iscrowd"] = 1
    folder.content["annotations"][3]["ignore"] = 1
    folder.content["categories"].append({"id": 0, "name": "animals", "supercategory": "none"})
    for category in folder.content["categories"][:2]:
        category["supercategory"] = "animals"
    return folder


def may_be_silent(mutation):
    """Whether a mutation makes another file that is as sound as the first."""
    match mutation.path:
        case ["annotations"] | ["annotations", _]:
            return mutation.value is REMOVED
        case ["annotations", _, "iscrowd" | "ignore" | "area" as key]:
            return mutation.value is REMOVED or (key == "area" and mutation.value == 0.5)
        case ["annotations", _, "bbox", _]:
            return mutation.value == 0.5
        case ["categories", _, "name" | "supercategory"]:
            return True
    return False


def test_trees(coco):
    images, path = coco.write()
    sound = CocoSource(images, path)
    refused = 0
    with limited_memory():
        for seed in range(600):
            mutation = mutate_tree(random.Random(seed), coco.content)
            path.write_text(json.dumps(mutation.tree))
            found = outcome(lambda: CocoSource(images, path, threads=2), "instances.json")
            refused += found is None
            if found is not None and not may_be_silent(mutation):
                assert not is_silent(found, sound), f"seed {seed}: {mutation}"
    assert 30 < refused < 300  # the mutations are neither harmless nor all fatal


def test_entries_with_values_of_others(coco):
    images, path = coco.write()
    sound = CocoSource(images, path)
    for seed in range(100):
        mutation = repeat_value(random.Random(seed), coco.content, ("images", "categories"))
        path.write_text(json.dumps(mutation.tree))
        found = outcome(lambda: CocoSource(images, path, threads=2), "instances.json")
        if found is not None and mutation.path[-1] not in ("name", "supercategory"):
            assert not is_silent(found, sound), f"seed {seed}: {mutation}"


def test_bytes(coco):
    images, path = coco.write()
    data = path.read_bytes()
    with limited_memory():
        for seed in range(200):
            path.write_bytes(mutate_bytes(random.Random(seed), data))
            outcome(lambda: CocoSource(images, path, threads=2), "instances.json")
