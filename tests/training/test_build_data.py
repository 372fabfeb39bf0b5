"""The data of a run: what training and evaluation must have in common, and what not."""

import json

import numpy as np
import pytest
from PIL import Image

from configs.common import default_config
from ipg_jax.data import Mosaic, RandomCrop, Rule
from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.images import TileGrid
from ipg_jax.training.build_data import (
    build_source,
    build_training_tiles,
    check_same_classes,
    check_training_data,
    open_source,
)
from ipg_jax.training.build_predict import build_prediction
from ipg_jax.training.build_runs import build_train_run

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


def test_tiles_crops_and_mosaics_have_one_default_of_what_must_be_visible():
    cuts = RandomCrop(size=(8, 8)), Mosaic(), default_config().data
    assert {cut.min_visible for cut in cuts} == {0.5}


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
        r"green, red; did you mean green\?; \(\) ignores none$",
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


@pytest.mark.parametrize(
    ("source", "field"),
    [
        ("coco", "eval_annotations"),
        ("voc", "eval_split"),
        ("yolo", "eval_split"),
        ("huggingface", "eval_split"),
        ("tfds", "eval_split"),
        ("digits", "eval_scenes"),
    ],
)
def test_the_field_that_names_no_data_to_evaluate_on_is_said(config, source, field):
    config.data.update({"source": source, "root": "data", "name": "made"})
    config.data[field] = 0 if source == "digits" else None
    message = rf"^config\.data\.{field} is not set: it names the data to evaluate on"
    with pytest.raises(ValueError, match=message):
        open_source(config, train=False)


def test_data_that_are_damaged_are_named_with_their_field(config, tmp_path):
    (tmp_path / "train.json").write_text("[")
    with pytest.raises(ValueError, match=r"^config\.data\.train_annotations: .* not a JSON file"):
        build_source(config, train=True)


def test_a_run_on_tiles(config, caplog):
    """An image of 8 x 12 has the columns 0 to 7, 3 to 10 and 4 to 11; its boxes are 1 to 5."""
    caplog.set_level("INFO")
    config.batch_size = 8
    config.model.backbone = "resnet10"
    config.data.tile = (8, 8)
    config.data.tile_overlap = 0.7  # 5.6, that is 5 pixels
    run = build_train_run(config, evaluate=False)
    assert run.source.records.image_ids == [f"1[0:8, {x}:{x + 8}]" for x in (0, 3, 4)]
    assert run.steps_per_epoch == 3 / 8
    assert run.batch_records(0)[0][0] in run.source.records.image_ids
    # Of the boxes 3 of 5 columns are in the second tile, and 2 in the third.
    np.testing.assert_array_equal(run.source.records.ignore, [0, 0, 0, 0, 1, 1])
    assert "3 tiles of 8 x 8 pixels; 0 more" in caplog.text

    source = build_source(config, train=True)
    config.data.empty_tiles = 0.0
    assert len(build_training_tiles(config, source)) == 2
    assert "2 tiles of 8 x 8 pixels; 1 more have no object to learn from" in caplog.text
    config.data.tile, config.data.min_visible = (3, 3), 1.0
    settings = r"config\.data\.tile=\(3, 3\), config\.data\.min_visible=1\.0"
    with pytest.raises(ValueError, match=settings + r", config\.data\.empty_tiles=0\.0: .*no tile"):
        build_training_tiles(config, source)
    config.data.empty_tiles = 1.0
    with pytest.raises(ValueError, match=settings + ": no object is left"):
        build_training_tiles(config, source)


def test_prediction_on_tiles(config):
    config.model.backbone = "resnet10"
    assert build_prediction(config)[1:] == (1, None)
    with pytest.raises(ValueError, match=r"--tiles asks for tiles, and neither config\.eval\.tile"):
        build_prediction(config, tiles=True)
    config.data.tile = (300, 400)  # as in training, unless config.eval says otherwise
    config.eval.merge_metric = "ios"
    config.eval.tile_overlap = 0.25
    _, batch_size, tiles = build_prediction(config, tiles=True, whole=False)
    assert tiles == Tiles(
        grid=TileGrid((300, 400), 0.25), merge=BoxMerge(metric="ios"), whole=False
    )
    assert batch_size == 4 * 8  # on the eight devices of the tests
    config.eval.tile = (100, 200)
    config.eval.batch_size = 16
    _, batch_size, tiles = build_prediction(config, tiles=True)
    assert (tiles.grid.size, tiles.whole, batch_size) == ((100, 200), True, 16)
    config.eval.batch_size = 4
    with pytest.raises(ValueError, match=r"config\.eval\.batch_size=4 is not a multiple of 8"):
        build_prediction(config, tiles=True)


def test_evaluation_on_a_share_of_the_training_data(config, tmp_path, caplog):
    """Images 1 to 20, of which a quarter is to be evaluated on; other evaluation data are not read.

    Their objects are red in the odd images and green in the others.
    """
    caplog.set_level("INFO")
    content = json.loads((tmp_path / "train.json").read_text())
    content["images"] = [content["images"][0] | {"id": i} for i in range(1, 21)]
    content["annotations"] = [
        {"id": i, "image_id": i, "category_id": 4 if i % 2 else 2, "bbox": [1, 1, 5, 5]}
        for i in range(1, 21)
    ]
    (tmp_path / "train.json").write_text(json.dumps(content))
    config.data.eval_share = 0.25
    config.data.eval_images = config.data.eval_annotations = "/gone"
    train = build_source(config, train=True)
    found = build_source(config, train=False, class_names=train.class_names)
    check_same_classes(train, found)
    assert sorted(train.records.image_ids + found.records.image_ids) == list(range(1, 21))
    assert f"eval_share=0.25: these {len(train)} images are those to train on" in caplog.text
    assert f"eval_share=0.25: these {len(found)} images are those to evaluate on" in caplog.text
    config.seed = 7  # another run's
    assert build_source(config, train=True).records.image_ids == train.records.image_ids
    config.data.split_seed = 7
    assert build_source(config, train=True).records.image_ids != train.records.image_ids

    config.data.eval_share = 1e-9
    fields = r"^config\.data\.train_annotations, config\.data\.eval_share: no usable image"
    with pytest.raises(ValueError, match=fields):
        build_source(config, train=False)
    config.data.source = "tfds"
    with pytest.raises(ValueError, match=r"eval_share=1e-09 divides the data of coco, voc, yolo,"):
        build_source(config, train=True)
