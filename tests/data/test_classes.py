"""Which classes of the data a model has: `class_names` selects and orders, `ignoring` drops."""

import numpy as np
import pytest

from ipg_jax.data import CocoSource, HuggingFaceSource, Rule, VocSource, YoloSource

LISTED = ("coco", "yolo", "huggingface")
"""The formats that list classes, also such as have no objects."""


@pytest.fixture(params=["coco", "voc", "yolo", "huggingface"])
def kind(request):
    return request.param


@pytest.fixture
def read(kind, coco, voc, yolo, hub):
    """From `class_names` to an image with a dog and a cat, of data that list birds as well."""
    coco.content["categories"].insert(0, {"id": 1, "name": "bird"})
    coco.add_image(1)
    for category_id in (3, 7):
        coco.add_box(1, 1, 1, 5, 5, category_id=category_id)
    voc.add("a", ("dog", (1, 1, 5, 5), 0), ("cat", (1, 1, 6, 6), 0))
    voc.split("train", "a")
    yolo.yaml("train: images/train", "names: [bird, cat, dog]")
    yolo.add("images/train/a.png", "2 0.5 0.5 0.1 0.1", "1 0.5 0.5 0.2 0.2")
    hub.class_names = ["bird", "cat", "dog"]
    hub.add(1, {"bbox": [1, 1, 5, 5], "category": 2}, {"bbox": [1, 1, 6, 6], "category": 1})
    sources = {
        "coco": lambda names=(): CocoSource(*coco.write(), class_names=names),
        "voc": lambda names=(): VocSource(voc.root, "train", class_names=names),
        "yolo": lambda names=(): YoloSource(yolo.root, "train", class_names=names),
        "huggingface": lambda names=(): HuggingFaceSource(hub.write(), "train", class_names=names),
    }
    return sources[kind]


def test_a_class_without_objects_is_left_out_on_request(read, kind):
    assert ("bird" in read().class_names) == (kind in LISTED)
    source = read(("dog", "cat"))
    assert source.class_names == ("dog", "cat")
    np.testing.assert_array_equal(source.records.labels, [0, 1])
    assert source.report.examples == ({Rule.UNUSED_CLASS: ["bird"]} if kind in LISTED else {})
    assert source.category_ids == {"coco": (3, 7), "voc": (0, 1)}.get(kind, (2, 1))
    np.testing.assert_array_equal(read(("cat", "bird", "dog")).records.labels, [2, 0])
    if kind in LISTED:
        assert set(read().ignoring(["bird"]).class_names) == {"cat", "dog"}


def test_a_class_with_objects_is_dropped_as_regions_to_ignore_alone(read, kind):
    message = r"(?s)given ones \(cat\): .*config\.data\.ignore_classes.*given \(1\): dog"
    with pytest.raises(ValueError, match=message):
        read(("dog",))
    source = read(("dog", "cat")).ignoring(["cat"])
    assert source.class_names == ("dog",)
    np.testing.assert_array_equal(source.records.labels, [0, 1])
    np.testing.assert_array_equal(source.records.ignore, [False, True])
    assert source.report.examples[Rule.IGNORED_CLASS] == source.records.file_names
