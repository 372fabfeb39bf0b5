"""Data sets of Hugging Face's `datasets`: on a disk and in parquet, and what is wrong with them."""

import shutil
import sys

import datasets
import numpy as np
import pytest
from made_files import encode, random_image

from ipg_jax.data import HuggingFaceSource, Rule

DOG = {"bbox": [1, 2, 10, 20], "category": 1}
CAT = {"bbox": [3.5, 4, 5, 6], "category": 0, "area": 7.0, "iscrowd": True}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def animals(hub):
    hub.add(7, DOG, CAT)
    hub.add(3)
    hub.add(5, DOG, size=(20, 30))
    return hub


def check_animals(source):
    assert (source.class_names, source.category_ids) == (("cat", "dog"), (0, 1))
    assert source.records.image_ids == [7, 3, 5]
    assert source.records.file_names == ["7.png", "3.png", "5.png"]
    np.testing.assert_array_equal(source.records.sizes, [[40, 60], [40, 60], [20, 30]])
    first = source.records.objects(0)
    np.testing.assert_array_equal(first.boxes, [[1, 2, 11, 22], [3.5, 4, 8.5, 10]])
    np.testing.assert_array_equal(first.labels, [1, 0])
    np.testing.assert_array_equal(first.ignore, [False, True])
    np.testing.assert_array_equal(first.area, [200, 7])
    np.testing.assert_array_equal(source.records.offsets, [0, 2, 2, 3])
    assert source.report.examples == {
        Rule.EMPTY_IMAGE: ["3.png"],
        Rule.IGNORED: ["7.png"],
        Rule.CLIPPED: ["5.png"],
    }
    np.testing.assert_array_equal(source.load_image(2), random_image(20, 30, seed=5))


def test_boxes_are_cocos(animals):
    source = HuggingFaceSource(animals.write(), "train")
    check_animals(source)
    assert source.name == "hub/train"
    empty = HuggingFaceSource(animals.root, "train", drop_empty=True, verify="decode")
    assert empty.records.image_ids == [7, 5]
    # A list for each field of the objects, in a data set without splits.
    animals.dataset(by_field=True).save_to_disk(animals.root / "whole")
    check_animals(HuggingFaceSource(animals.root / "whole", "."))


def test_parquet_files(animals):
    (animals.root / "data").mkdir(parents=True)
    path = animals.root / "data" / "train-00000-of-00001.parquet"
    animals.dataset().to_parquet(path)
    for root, split in (
        (animals.root, "train"),
        (animals.root / "data", "train"),
        (animals.root / "data", "."),
        (path, "."),
    ):
        check_animals(HuggingFaceSource(root, split))


def test_what_is_wrong_is_dropped_and_counted(hub):
    box = {"category": 0, "bbox": [1, 1, 5, 5]}
    hub.add(1, box, box | {"category": None}, box | {"bbox": None}, box | {"bbox": [1, 1, 5]})
    hub.add(2, box | {"bbox": [1, 1, 0, 5]}, box | {"bbox": [90, 1, 5, 5]}, box | {"area": -1.0})
    hub.add(3, box, image={"path": "3.png", "bytes": b"no image"})
    hub.add(4, box, image=None)
    hub.add(5, box, height=41)
    hub.add(5, box)
    hub.add(6, box, height=None, width=None)
    source = HuggingFaceSource(hub.write(), "train")
    assert source.records.image_ids == [1, 2, 5, 6]
    assert source.report.counts == {
        Rule.UNKNOWN_CATEGORY: 1,
        Rule.NOT_FINITE: 2,
        Rule.NO_EXTENT: 1,
        Rule.OUTSIDE: 1,
        Rule.BAD_AREA: 1,
        Rule.UNREADABLE_IMAGE: 2,
        Rule.SIZE_MISMATCH: 1,
        Rule.DUPLICATE_IMAGE: 1,
    }
    assert len(source.records.boxes) == 4
    assert source.size(2) == (40, 60)
    assert (source.report.lost, source.expected_images) == (2, 6)
    assert all(
        "3.png" in text or "example 3" in text
        for text in source.report.examples[Rule.UNREADABLE_IMAGE]
    )


def test_fields_of_different_lengths_drop_the_image(animals):
    rows = animals.dataset(by_field=True).to_list()
    for row in rows:
        row["image"] = {"path": None, "bytes": encode(random_image(40, 60))}
    rows[0]["objects"]["category"].pop()
    features = animals.features(by_field=True)
    datasets.Dataset.from_list(rows, features=features).save_to_disk(animals.root)
    source = HuggingFaceSource(animals.root, ".")
    assert source.records.image_ids == [3, 5]
    (reason,) = source.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "example 0: its objects have fields of different lengths" in reason


def test_images_without_ids_are_named_by_their_place(animals):
    animals.dataset().remove_columns(["image_id", "height", "width"]).save_to_disk(animals.root)
    source = HuggingFaceSource(animals.root, ".")
    assert source.records.image_ids == [0, 1, 2]
    np.testing.assert_array_equal(source.records.sizes, [[40, 60], [40, 60], [20, 30]])


def test_data_of_another_form_are_refused(animals, tmp_path):
    whole = animals.dataset()
    plain = animals.features()
    plain["objects"].feature["category"] = datasets.Value("int64")
    for name, dataset, message in (
        ("no objects", whole.remove_columns("objects"), r"needs the columns image, .*; it has"),
        ("no image", whole.remove_columns("image"), r"needs the columns image"),
        ("no names", whole.cast(plain), r"objects\.category of .*no names is no ClassLabel"),
    ):
        dataset.save_to_disk(tmp_path / name)
        with pytest.raises(ValueError, match=message):
            HuggingFaceSource(tmp_path / name, ".")
    root = animals.write()
    with pytest.raises(FileNotFoundError, match=r"hub/val, and there are no .*val-\*\.parquet in"):
        HuggingFaceSource(root, "val")
    for path in (root / "train").glob("*.json"):
        path.write_text("[")
    with pytest.raises(ValueError, match=r"hub/train cannot be opened"):
        HuggingFaceSource(root, "train")
    shutil.rmtree(root)


def test_a_missing_package_is_said_with_its_extra(animals, monkeypatch):
    root = animals.write()
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"pip install 'ipg-jax\[huggingface\]'"):
        HuggingFaceSource(root, "train")
