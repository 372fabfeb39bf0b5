import json
import math

import numpy as np
import pytest
from made_files import encode, random_image

from ipg_jax.data import CocoSource, Rule


def test_clean_data(coco):
    coco.add_image(11)
    coco.add_image(22, size=(50, 30))
    coco.add_box(22, 1, 2, 3, 4, category_id=7, area=9.5)
    coco.add_box(11, 10.5, 5, 20, 30, category_id=3)
    coco.add_box(22, 0, 0, 30, 50, category_id=3, iscrowd=1)
    source = CocoSource(*coco.write())

    assert len(source) == 2
    assert source.class_names == ("dog", "cat")
    assert source.category_ids == (3, 7)
    assert source.records.image_ids == [11, 22]
    np.testing.assert_array_equal(source.records.sizes, [[40, 60], [50, 30]])
    np.testing.assert_array_equal(source.records.objects(0).boxes, [[10.5, 5, 30.5, 35]])
    second = source.records.objects(1)
    np.testing.assert_array_equal(second.boxes, [[1, 2, 4, 6], [0, 0, 30, 50]])
    np.testing.assert_array_equal(second.labels, [1, 0])
    np.testing.assert_array_equal(second.ignore, [False, True])
    np.testing.assert_array_equal(second.area, [9.5, 1500])
    np.testing.assert_array_equal(source.load_image(1), random_image(50, 30, seed=22))
    assert source.records.max_objects == 2
    assert source.report.counts == {Rule.IGNORED: 1}
    assert source.unreadable == 0


def test_every_rule_on_boxes_is_counted_and_names_the_file(coco):
    boxes = {
        1: (5, 5, 10, 10),  # sound
        2: (50, 30, 20, 20),  # partly outside
        3: (70, 5, 10, 10),  # outside
        4: (5, 5, 0, 10),  # no extent
        5: (5, 5, 10, -1),
        6: (5, math.nan, 10, 10),
        7: (5, 5, math.inf, 10),
        8: (5, 5, 10),  # malformed
        9: (5, 5, 55.008, 10),  # rounding is nothing to report
    }
    for image_id, box in boxes.items():
        coco.add_image(image_id)
        coco.add_box(image_id, *box)
    coco.add_box(1, 1, 1, 2, 2, category_id=99)
    coco.add_box(404, 1, 1, 2, 2)
    coco.add_box(1, 1, 1, 2, 2, id=1)
    coco.content["annotations"].append({"id": 77, "image_id": 1, "category_id": 3})
    source = CocoSource(*coco.write())

    report = source.report
    assert report.counts == {
        Rule.EMPTY_IMAGE: 6,
        Rule.UNKNOWN_IMAGE: 1,
        Rule.UNKNOWN_CATEGORY: 1,
        Rule.DUPLICATE_ANNOTATION: 1,
        Rule.NOT_FINITE: 4,
        Rule.NO_EXTENT: 2,
        Rule.OUTSIDE: 1,
        Rule.CLIPPED: 1,
    }
    assert report.examples[Rule.NOT_FINITE] == ["6.png", "7.png", "8.png", "1.png"]
    assert report.examples[Rule.OUTSIDE] == ["3.png"]
    assert report.examples[Rule.CLIPPED] == ["2.png"]
    assert report.examples[Rule.UNKNOWN_CATEGORY] == ["1.png: category id 99"]
    assert report.examples[Rule.UNKNOWN_IMAGE] == ["image id 404"]
    np.testing.assert_array_equal(source.records.objects(1).boxes, [[50, 30, 60, 40]])
    np.testing.assert_array_equal(source.records.objects(8).boxes, [[5, 5, 60, 15]])
    assert len(source.records.objects(2).boxes) == 0
    assert len(source.records.objects(0).boxes) == 2
    text = str(report)
    assert str(coco.json) in text
    assert f"1 x {Rule.OUTSIDE.value} (3.png)" in text
    assert "3.png, 4.png, 5.png, 6.png, 7.png, ...)" in text


def test_images_without_objects(coco):
    coco.add_image(1)
    coco.add_image(2)
    coco.add_box(2, 1, 1, 5, 5)
    kept = CocoSource(*coco.write())
    assert len(kept) == 2
    assert kept.report.examples == {Rule.EMPTY_IMAGE: ["1.png"]}
    dropped = CocoSource(*coco.write(), drop_empty=True)
    assert dropped.records.image_ids == [2]
    assert dropped.report.examples == {Rule.EMPTY_IMAGE_DROPPED: ["1.png"]}
    np.testing.assert_array_equal(dropped.load_image(0), random_image(40, 60, seed=2))


def test_missing_damaged_and_repeated_images(coco):
    for image_id in range(1, 5):
        coco.add_image(image_id)
        coco.add_box(image_id, 1, 1, 5, 5)
    coco.content["images"].append(coco.content["images"][3])
    (coco.images / "1.png").unlink()
    (coco.images / "2.png").write_bytes(b"no image")
    data = (coco.images / "3.png").read_bytes()
    (coco.images / "3.png").write_bytes(data[: len(data) // 2])

    headers = CocoSource(*coco.write())
    assert headers.records.image_ids == [3, 4]
    assert headers.report.examples.keys() == {Rule.UNREADABLE_IMAGE, Rule.DUPLICATE_IMAGE}
    missing, damaged = headers.report.examples[Rule.UNREADABLE_IMAGE]  # each with the reason
    assert missing.startswith("1.png: cannot read")
    assert damaged.startswith("2.png: not a readable image")
    assert headers.report.examples[Rule.DUPLICATE_IMAGE] == ["4.png"]
    assert [len(headers.records.objects(i).boxes) for i in range(2)] == [1, 1]
    decoded = CocoSource(*coco.write(), verify="decode")
    assert decoded.records.image_ids == [4]
    assert decoded.report.count(Rule.UNREADABLE_IMAGE) == 3
    trusting = CocoSource(*coco.write(), verify="none")
    assert trusting.records.image_ids == [1, 2, 3, 4]


def test_unreadable_file_at_run_time_is_counted_and_logged_once(coco, caplog):
    coco.add_image(1)
    coco.add_image(2)
    source = CocoSource(*coco.write())
    (coco.images / "2.png").write_bytes(b"no image")
    assert source.try_load_image(0) is not None
    for _ in range(3):
        assert source.try_load_image(1) is None
    assert source.unreadable == 1
    assert [line.partition(":")[0] for line in source.failures] == ["2.png"]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1
    assert "2.png" in messages[0]


def test_annotated_sizes_are_checked_against_the_files(coco):
    pixels = random_image(40, 60)
    for image_id in range(1, 6):
        coco.add_image(image_id)
        coco.add_box(image_id, 0, 0, 60, 60)
    coco.content["images"][0].update(height=60, width=40)  # the size after EXIF orientation
    coco.content["images"][1].update(height=80, width=120)  # wrong
    del coco.content["images"][2]["height"]  # missing
    for image_id in (1, 2, 3, 4):
        (coco.images / f"{image_id}.png").write_bytes(encode(pixels, orientation=6))
    source = CocoSource(*coco.write())
    np.testing.assert_array_equal(
        source.records.sizes, [[60, 40], [60, 40], [60, 40], [40, 60], [40, 60]]
    )
    assert source.report.examples == {
        Rule.SIZE_MISSING: ["3.png"],
        Rule.SIZE_MISMATCH: ["2.png"],
        Rule.EXIF_APPLIED: ["1.png"],
        Rule.EXIF_IGNORED: ["4.png"],
        Rule.EXIF_UNDECIDED: ["2.png", "3.png"],
        Rule.CLIPPED: [f"{i}.png" for i in range(1, 6)],
    }
    np.testing.assert_array_equal(source.load_image(0), np.rot90(pixels, -1))
    np.testing.assert_array_equal(source.load_image(3), pixels)
    np.testing.assert_array_equal(source.records.objects(0).boxes, [[0, 0, 40, 60]])
    np.testing.assert_array_equal(source.records.objects(1).boxes, [[0, 0, 40, 60]])


def test_class_names_fix_the_order_and_must_match(coco):
    coco.add_image(1)
    coco.add_box(1, 1, 1, 5, 5, category_id=7)
    source = CocoSource(*coco.write(), class_names=("cat", "dog"))
    assert source.category_ids == (7, 3)
    np.testing.assert_array_equal(source.records.labels, [0])
    coco.add_box(1, 1, 1, 5, 5, category_id=3)
    with pytest.raises(ValueError, match=r"(?s)\(dog\).*given \(2\): cat, god.*data \(2\): dog, c"):
        CocoSource(*coco.write(), class_names=("cat", "god"))
    with pytest.raises(ValueError, match=r"(?s)given \(1\): dog.*in the data \(2\): dog, cat"):
        CocoSource(*coco.write(), class_names=("dog",))


def test_five_hundred_objects(coco):
    coco.add_image(1, size=(500, 500))
    for i in range(500):
        coco.add_box(1, i, i, 0.5, 0.5)
    source = CocoSource(*coco.write())
    assert source.records.max_objects == 500
    np.testing.assert_array_equal(source.records.boxes[:, 0], np.arange(500))


def test_a_file_without_annotations_lists_images_to_detect_objects_in(coco):
    coco.add_image(7)
    coco.add_image(5)
    del coco.content["annotations"]
    source = CocoSource(*coco.write(), drop_empty=True)
    assert not source.records.annotated
    assert source.records.image_ids == [7, 5]
    assert source.category_ids == (3, 7)
    assert source.report.counts == {}  # that they are empty is nothing to report
    coco.content["annotations"] = []
    assert CocoSource(*coco.write()).records.annotated


def test_errors_name_the_file(coco):
    coco.add_image(1)
    images, annotations = coco.write()
    (images / "1.png").unlink()
    with pytest.raises(ValueError, match=r"(?s)no usable image.*instances\.json.*1\.png"):
        CocoSource(images, annotations)
    coco.content["categories"].append({"id": 3, "name": "again"})
    with pytest.raises(ValueError, match=r"instances\.json lists the category id 3 more than once"):
        CocoSource(*coco.write())
    del coco.content["categories"]
    with pytest.raises(ValueError, match=r"instances\.json is not in COCO's detection format"):
        CocoSource(*coco.write())
    annotations.write_text(json.dumps({"images": [{"id": 1}], "annotations": [], "categories": []}))
    with pytest.raises(ValueError, match=r"images\[0\]\.file_name is null, expected the name"):
        CocoSource(images, annotations)
    annotations.write_text("{")
    with pytest.raises(ValueError, match=r"instances\.json is not a JSON file"):
        CocoSource(images, annotations)
    with pytest.raises(OSError, match=r"other\.json"):
        CocoSource(images, annotations.with_name("other.json"))


def test_a_file_of_several_ids_is_reported_and_each_id_kept(coco):
    for image_id in (1, 2, 3, 4):
        coco.add_image(image_id)
        coco.add_box(image_id, image_id, 6, 10, 20)
    coco.content["images"][1]["file_name"] = "1.png"
    coco.content["images"][3]["file_name"] = ".//1.png"
    for verify in ("headers", "none"):
        source = CocoSource(*coco.write(), verify=verify)
        assert source.records.image_ids == [1, 2, 3, 4]
        np.testing.assert_array_equal(source.records.boxes[:, 0], [1, 2, 3, 4])
        assert source.report.counts == {Rule.SHARED_FILE: 2}
        assert source.report.examples == {Rule.SHARED_FILE: ["1.png", ".//1.png"]}


@pytest.mark.parametrize("tool", ["Label Studio on Windows", "LVIS"])
def test_file_names_as_tools_write_them(coco, tool):
    coco.add_image(1)
    coco.add_box(1, 5, 6, 10, 20)
    (coco.images / "train2017").mkdir()
    (coco.images / "1.png").rename(coco.images / "train2017" / "1.png")
    (entry,) = coco.content["images"]
    if tool == "LVIS":
        del entry["file_name"]
        entry["coco_url"] = "http://images.cocodataset.org/train2017/1.png"
    else:
        entry["file_name"] = "train2017\\1.png"
    source = CocoSource(*coco.write())
    assert source.records.file_names == ["train2017/1.png"]
    assert source.load_image(0).shape == (40, 60, 3)
    assert source.report.counts == {}


def test_boxes_in_shares_of_the_image_are_in_the_report(coco):
    coco.add_image(1)
    for box in ([0.1, 0.2, 0.5, 0.6], [5, 6, 0.9, 20], [5, 6, 1, 1]):
        coco.add_box(1, *box)
    source = CocoSource(*coco.write())
    assert source.records.max_objects == 3
    assert source.report.counts == {Rule.BELOW_A_PIXEL: 1}
