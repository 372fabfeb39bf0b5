"""Fields of COCO files with values of any type: read by one rule each, or refused by name."""

import json
import math
import os

import numpy as np
import pytest
from made_files import CocoFolder

from ipg_jax.data import CocoSource, Rule
from ipg_jax.data.sources.base import DataReport, resolve_classes
from ipg_jax.evaluation import DetectionCollector, evaluate_coco, evaluate_voc
from ipg_jax.types import Detections


@pytest.fixture
def one(coco: CocoFolder) -> CocoFolder:
    """One image with one object."""
    coco.add_image(1)
    coco.add_box(1, 5, 6, 10, 20, area=150)
    return coco


@pytest.mark.parametrize(
    ("value", "ignored", "reported"),
    [
        *((v, False, False) for v in (0, "0", "false", "False", " no ", False, 0.0)),
        *((v, True, False) for v in (1, "1", "true", "TRUE", "yes", True, 1.0)),
        *((v, False, True) for v in (None, math.nan, [0], [1], {}, "", "Unspecified", 2, -1)),
    ],
)
@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_flags_in_any_spelling(one, key, value, ignored, reported):
    one.content["annotations"][0][key] = value
    source = CocoSource(*one.write())
    np.testing.assert_array_equal(source.records.ignore, [ignored])
    assert source.report.count(Rule.IGNORED) == ignored
    examples = source.report.examples.get(Rule.UNREADABLE_FLAG, [])
    assert len(examples) == reported
    assert all(text.startswith(f"1.png: {key}=") for text in examples)


@pytest.mark.parametrize("value", [0, -3.5, math.inf, math.nan, 1e300, 2401, None, [150], "wide"])
def test_areas_that_cannot_be_are_those_of_the_box(one, value):
    one.content["annotations"][0]["area"] = value
    source = CocoSource(*one.write())
    np.testing.assert_array_equal(source.records.area, [200])
    assert source.report.examples == {Rule.BAD_AREA: ["1.png"]}


@pytest.mark.parametrize(("value", "area"), [(150.5, 150.5), ("150.5", 150.5), (2400, 2400)])
def test_areas_that_can_be_are_kept(one, value, area):
    one.content["annotations"][0]["area"] = value
    source = CocoSource(*one.write())
    np.testing.assert_array_equal(source.records.area, [area])
    assert source.report.counts == {}


@pytest.mark.parametrize(
    "value",
    [
        *("1234", {"0": 1, "1": 2, "2": 3, "3": 4}, None, 7),
        *([1, 2, 3, True], [1, 2, [3], 4], [1, 2, 3, 4, 5], ["1_0", 2, 3, 4], ["٣", 2, 3, 4]),
        *([1, 2, 3, 10**400], [1e308, 2, 1e308, 4]),
    ],
)
def test_boxes_that_are_not_four_numbers_are_dropped_and_counted(one, value):
    one.content["annotations"][0]["bbox"] = value
    source = CocoSource(*one.write())
    assert source.records.max_objects == 0
    assert source.report.examples[Rule.NOT_FINITE] == ["1.png"]


def test_boxes_of_numbers_written_as_text_are_read(one):
    one.content["annotations"][0]["bbox"] = ["5", " 6.0", "1e1", "20"]
    source = CocoSource(*one.write())
    np.testing.assert_array_equal(source.records.boxes, [[5, 6, 15, 26]])


def test_polygons_stand_in_for_boxes_that_are_not_annotated(one):
    one.add_box(1, 0, 0, 1, 1)
    one.add_box(1, 0, 0, 1, 1)
    first, second, third = one.content["annotations"]
    del first["bbox"]
    first["segmentation"] = [[7, 8, 20, 9, 12, 30], [6, 10, 8, 10, 8, 12]]
    second.update(bbox=None, segmentation=[[1, 2, math.nan, 4, 5, 6]])
    third.update(bbox=None, segmentation={"counts": [1], "size": [40, 60]})
    source = CocoSource(*one.write())
    np.testing.assert_array_equal(source.records.boxes, [[6, 8, 20, 30]])
    assert source.report.counts == {Rule.POLYGON_BOX: 2, Rule.NOT_FINITE: 2}


@pytest.mark.parametrize("value", [None, 0, -40, 40.5, "wide", [40], math.nan, 2**31, 10**400])
def test_image_sizes_that_cannot_be_are_those_of_the_file(one, value):
    one.content["images"][0]["height"] = value
    source = CocoSource(*one.write(), verify="none")
    assert source.size(0) == (40, 60)
    assert source.report.examples == {Rule.SIZE_MISSING: ["1.png"]}


def test_ids_match_as_text_and_stay_as_they_are_in_results(coco):
    coco.add_image(1)
    coco.add_image(2)
    coco.content["images"][1]["id"] = "2"
    coco.content["categories"] = [{"id": "10", "name": "dog"}, {"id": 9.0, "name": "cat"}]
    coco.add_box(1, 1, 1, 5, 5, category_id=9)
    coco.add_box(2, 2, 2, 5, 5, category_id=10)
    coco.content["annotations"][0]["image_id"] = "1"
    source = CocoSource(*coco.write())
    assert source.records.image_ids == [1, "2"]
    assert source.class_names == ("cat", "dog")  # by number, not by text
    assert source.category_ids == (9, "10")
    np.testing.assert_array_equal(source.records.labels, [0, 1])
    assert source.report.counts == {}


def detected(source) -> list[dict]:
    """Results that are the ground truth."""
    collector = DetectionCollector(source)
    for index in range(len(source)):
        objects = source.records.objects(index)
        count = len(objects.boxes)
        found = Detections(
            boxes=objects.boxes[None],
            scores=np.full((1, count), 0.9, np.float32),
            labels=objects.labels[None],
            valid=np.ones((1, count), bool),
        )
        scale = np.ones((1, 2), np.float32)
        collector.add(found, np.array([index], np.int32), scale, np.ones(1, np.float32))
    return collector.results()


def test_image_ids_of_two_types_and_names_that_are_numbers_are_evaluated(coco):
    for image_id in (1, 2, 3):
        coco.add_image(image_id)
        coco.add_box(image_id, 5, 6, 10, 20)
    coco.content["images"][0]["id"] = coco.content["annotations"][0]["image_id"] = "first"
    for number, category in enumerate(coco.content["categories"]):
        category["name"] = number
    source = CocoSource(*coco.write())
    assert source.class_names == ("1", "0")
    results = json.loads(json.dumps(detected(source)))
    assert [r["image_id"] for r in results] == ["first", 2, 3]
    assert [r["category_id"] for r in results] == [3, 3, 3]
    assert evaluate_coco(source, results)["AP"] == pytest.approx(1.0)
    assert evaluate_voc(source, results)["mAP"] == 1.0


ROOT = [
    {"id": 0, "name": "shapes", "supercategory": "none"},
    {"id": 1, "name": "red", "supercategory": "shapes"},
    {"id": 2, "name": "green", "supercategory": "shapes"},
]


def test_a_root_category_without_objects_is_dropped(coco):
    coco.add_image(1)
    coco.add_box(1, 1, 1, 5, 5, category_id=1)
    coco.content["categories"] = ROOT
    source = CocoSource(*coco.write())
    assert source.class_names == ("red", "green")
    assert source.category_ids == (1, 2)
    assert source.report.examples == {Rule.ROOT_CATEGORY: ["shapes (id 0)"]}

    # Named like one of the classes below it.
    coco.content["categories"] = [{**ROOT[0], "name": "red"}] + [
        {**category, "supercategory": "red"} for category in ROOT[1:]
    ]
    for names in ((), ("red", "green")):
        source = CocoSource(*coco.write(), class_names=names)
        assert source.category_ids == (1, 2)
        np.testing.assert_array_equal(source.records.labels, [0])


def test_a_root_category_that_is_used_or_asked_for_stays(coco):
    coco.add_image(1)
    coco.add_box(1, 1, 1, 5, 5, category_id=1)
    coco.content["categories"] = ROOT
    asked = CocoSource(*coco.write(), class_names=("green", "red", "shapes"))
    assert asked.category_ids == (2, 1, 0)
    coco.add_box(1, 1, 1, 5, 5, category_id="0")
    used = CocoSource(*coco.write())
    assert used.class_names == ("shapes", "red", "green")


def test_data_may_lack_a_class(coco):
    coco.add_image(1)
    coco.add_box(1, 1, 1, 5, 5, category_id=7)
    source = CocoSource(*coco.write(), class_names=("bird", "cat", "dog"))
    assert source.class_names == ("bird", "cat", "dog")
    assert source.category_ids == (8, 7, 3)  # an id that no category of the file has
    np.testing.assert_array_equal(source.records.labels, [1])
    assert source.report.examples == {Rule.ABSENT_CLASS: ["bird"]}
    figures = evaluate_coco(source, detected(source))
    assert figures["AP"] == pytest.approx(1.0)
    assert figures["per_class"]["bird"] == dict.fromkeys(figures["per_class"]["bird"]) | {
        "objects": 0
    }


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(annotations=None), r"annotations is null, expected a list"),
        (lambda c: c.update(images={"a": 1}), r"images is an object, expected a list"),
        (lambda c: c["images"].append(3), r"images\[1\] is 3, expected an object"),
        (
            lambda c: c["annotations"].append([]),
            r"annotations\[1\] is a list of 0, expected an",
        ),
        (lambda c: c["images"][0].update(id=None), r"images\[0\]\.id is null, expected a whole"),
        (lambda c: c["images"][0].update(id=1.5), r"images\[0\]\.id is 1\.5, expected"),
        (lambda c: c["images"][0].update(id=True), r"images\[0\]\.id is true, expected"),
        (lambda c: c["images"][0].update(file_name=7), r"images\[0\]\.file_name is 7, expected"),
        (lambda c: c["images"][0].pop("file_name"), r"images\[0\]\.file_name is null, expected"),
        (lambda c: c["categories"][1].update(id=[]), r"categories\[1\]\.id is a list of 0, exp"),
        (lambda c: c["categories"][1].update(name=""), r'categories\[1\]\.name is "", expected'),
        (lambda c: c["categories"][1].update(name={}), r"categories\[1\]\.name is an object, ex"),
        (lambda c: c["categories"][1].update(id="7"), r"the category id 7 more than once: cat and"),
        (lambda c: c["categories"][1].update(name="cat"), r"name cat more than once: ids 3 and 7"),
        (lambda c: c.update(categories=[]), r"categories is empty"),
    ],
)
def test_errors_name_file_field_value_and_what_is_expected(one, edit, message):
    edit(one.content)
    with pytest.raises(ValueError, match=rf"instances\.json.*{message}"):
        CocoSource(*one.write())


def test_references_to_nothing_are_dropped_and_named(one):
    for image_id, category_id in ((None, 3), ([1], 3), ("one", 3), (1, None), (1, {}), (1, 3.5)):
        one.add_box(1, 1, 1, 5, 5, category_id=category_id)
        one.content["annotations"][-1]["image_id"] = image_id
    source = CocoSource(*one.write())
    assert source.report.examples == {
        Rule.UNKNOWN_IMAGE: ["image id null", "image id a list of 1", 'image id "one"'],
        Rule.UNKNOWN_CATEGORY: [f"1.png: category id {v}" for v in ("null", "an object", "3.5")],
    }


def test_deep_nesting_other_encodings_and_pipes_are_errors_with_the_name(one):
    images, annotations = one.write()
    text = annotations.read_text()
    annotations.write_text('{"images": ' + "[" * 200_000)
    with pytest.raises(ValueError, match=r"instances\.json nests lists or objects too deeply"):
        CocoSource(images, annotations)
    annotations.write_text(text, encoding="utf-16")
    assert len(CocoSource(images, annotations)) == 1
    annotations.write_bytes(b"\xff" + text.encode())
    with pytest.raises(ValueError, match=r"instances\.json is not a JSON file"):
        CocoSource(images, annotations)
    annotations.unlink()
    os.mkfifo(annotations)
    with pytest.raises(OSError, match=r"instances\.json: it is a named pipe"):
        CocoSource(images, annotations)


def test_control_characters_of_names_are_escaped_in_reports_and_errors(one):
    one.content["images"].append({"id": 2, "file_name": "a\n\x1b[2Jb.png"})
    one.content["categories"][0]["name"] = "cat\x1b[31m\n3 x image"
    source = CocoSource(*one.write())
    (line,) = source.report.lines()
    assert line.isprintable()
    assert r"a\n\x1b[2Jb.png" in line
    with pytest.raises(ValueError, match="beyond the given ones") as caught:
        CocoSource(*one.write(), class_names=("bird",))
    assert all(part.isprintable() for part in str(caught.value).split("\n"))
    assert len(str(caught.value).split("\n")) == 3


def test_a_class_that_the_data_lack_gets_an_id_that_is_free_as_text(tmp_path):
    ids = resolve_classes(
        ["a", "b"],
        {"a": "0"},
        used=["a"],
        origin="x.json",
        report=DataReport(str(tmp_path / "x.json")),
    )
    assert ids == {"a": "0", "b": 1}
