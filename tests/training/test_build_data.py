"""The data of a run: what training and evaluation must have in common, and what not."""

import json

import numpy as np
import pytest
from PIL import Image

from configs.common import default_config
from ipg_jax.data import Rule
from ipg_jax.training.build_runs import (
    build_source,
    check_same_classes,
    check_training_data,
)

CATEGORIES = [{"id": 4, "name": "red"}, {"id": 2, "name": "green"}]


def write(folder, name, categories, category_ids):
    """A COCO file with one image, which has an object of each of the categories named."""
    (folder / "images").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(folder / "images" / "a.png")
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 8, "width": 12}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": category_id, "bbox": [1, 1, 5, 5]}
            for i, category_id in enumerate(category_ids)
        ],
        "categories": categories,
    }
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


@pytest.fixture
def config(tmp_path):
    config = default_config()
    config.model.num_classes = 2
    config.data.source = "coco"
    config.data.train_images = config.data.eval_images = str(tmp_path / "images")
    config.data.train_annotations = write(tmp_path, "train.json", CATEGORIES, [4, 2])
    config.data.eval_annotations = write(tmp_path, "val.json", CATEGORIES[:1], [4])
    return config


def test_evaluation_data_may_lack_a_class_of_the_training(config):
    source = build_source(config, train=True)
    assert source.class_names == ("green", "red")
    found = build_source(config, train=False, class_names=source.class_names)
    check_training_data(source)
    check_same_classes(source, found)
    np.testing.assert_array_equal(found.records.labels, [1])
    assert found.report.examples == {Rule.ABSENT_CLASS: ["green"]}
    assert config.data.class_names is None

    # By the two remedies that the message without the classes of a run offers.
    with pytest.raises(ValueError, match=r"has 1 classes \(red\)") as caught:
        build_source(config, train=False)
    assert "--config.model.num_classes=1, or name the classes" in str(caught.value)
    config.data.class_names = ("red", "green")
    assert build_source(config, train=False).category_ids == (4, 5)
    config.data.class_names = None
    config.model.num_classes = 1
    assert build_source(config, train=False).class_names == ("red",)


def test_classes_that_the_training_lacks_are_refused(config):
    config.data.train_annotations = config.data.eval_annotations
    config.model.num_classes = 1
    config.data.eval_annotations = config.data.train_annotations.replace("val", "train")
    source = build_source(config, train=True)
    with pytest.raises(ValueError, match=r"(?s)train\.json.*\(green\).*given \(1\): red"):
        build_source(config, train=False, class_names=source.class_names)


def test_classes_to_ignore_are_none_of_the_models(config):
    config.data.ignore_classes = ("green",)
    config.model.num_classes = 1
    source = build_source(config, train=True)
    assert (source.class_names, source.category_ids) == (("red",), (4,))
    assert dict(zip(source.records.labels, source.records.ignore, strict=True)) == {0: 0, 1: 1}
    assert source.report.count(Rule.IGNORED_CLASS) == 1
    # Evaluation data may lack them, as they may lack other classes.
    found = build_source(config, train=False, class_names=source.class_names)
    check_same_classes(source, found)
    np.testing.assert_array_equal(found.records.labels, [0])
    config.data.class_names = ("red",)
    assert build_source(config, train=True).class_names == ("red",)


def test_a_class_to_ignore_that_the_data_lack_is_an_error_with_the_nearest(config):
    config.data.ignore_classes = ("Green",)
    with pytest.raises(
        ValueError,
        match=r"^config\.data\.ignore_classes: train\.json has no class Green to ignore, only "
        r"green, red; did you mean green\?$",
    ):
        build_source(config, train=True)
    config.data.ignore_classes = ("green", "red")
    with pytest.raises(ValueError, match=r"^config\.data\.ignore_classes: .* no class but those"):
        build_source(config, train=True)
    config.data.class_names = ("green", "red")
    with pytest.raises(ValueError, match=r"ignore_classes has green, which is one of the classes"):
        build_source(config, train=True)


def test_training_without_one_object_is_refused_and_says_why(config, tmp_path):
    config.data.train_annotations = write(tmp_path, "train.json", CATEGORIES, [99])
    source = build_source(config, train=True)
    with pytest.raises(ValueError, match=r"(?s)no object is left.*train\.json.*category id 99"):
        check_training_data(source)


def test_training_data_of_crowds_alone_are_refused(config, tmp_path):
    path = tmp_path / "train.json"
    content = json.loads(path.read_text())
    for entry in content["annotations"]:
        entry["iscrowd"] = 1
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"(?s)no object is left.*crowd"):
        check_training_data(build_source(config, train=True))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"eval_annotations": "/gone.json"},
            r"^config\.data\.eval_annotations: .*/gone\.json: No ",
        ),
        (
            {"source": "voc", "root": "/gone", "eval_split": "val"},
            r"^config\.data\.root, config\.data\.eval_split: there is no /gone/",
        ),
        (
            {"source": "tfds", "name": "made", "data_dir": "/gone", "eval_split": "val"},
            r"^config\.data\.name, config\.data\.eval_split: .* in config\.data\.data_dir",
        ),
    ],
)
def test_data_that_are_not_there_are_named_with_their_field(config, fields, message):
    config.data.update(fields)
    with pytest.raises(OSError, match=message):
        build_source(config, train=False)


def test_data_that_are_damaged_are_named_with_their_field(config, tmp_path):
    (tmp_path / "train.json").write_text("[")
    with pytest.raises(ValueError, match=r"^config\.data\.train_annotations: .* not a JSON file"):
        build_source(config, train=True)
