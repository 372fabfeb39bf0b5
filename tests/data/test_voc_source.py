import shutil

import numpy as np
import pytest

from ipg_jax.data import Rule, VocSource


def test_boxes_become_zero_based_and_half_open(voc):
    voc.add("a", ("dog", (1, 1, 60, 40), 0), ("cat", (11, 21, 11, 30), 0), ("cat", (5, 6, 7, 9), 1))
    voc.add("b", ("bird", (2, 3, 4, 5), 0), size=(30, 20), suffix="png")
    voc.split("train", "a", "", "b  1")
    source = VocSource(voc.root, "train")

    assert source.class_names == ("bird", "cat", "dog")
    assert source.category_ids == (0, 1, 2)
    assert source.records.image_ids == ["a", "b"]
    assert source.records.file_names == ["a.jpg", "b.png"]
    np.testing.assert_array_equal(source.records.sizes, [[40, 60], [30, 20]])
    first = source.records.objects(0)
    np.testing.assert_array_equal(first.boxes, [[0, 0, 60, 40], [4, 5, 7, 9]])
    np.testing.assert_array_equal(first.labels, [2, 1])
    np.testing.assert_array_equal(first.ignore, [False, True])
    np.testing.assert_array_equal(first.area, [2400, 12])  # VOC's (xmax - xmin + 1) * ...
    assert source.load_image(1).shape == (30, 20, 3)
    # One pixel wide by the letter, but written by tools for a click without a drag.
    assert source.report.examples == {Rule.NO_EXTENT: ["a.jpg"], Rule.IGNORED: ["a.jpg"]}


def test_labels_do_not_depend_on_the_split(voc):
    voc.add("a", ("dog", (1, 1, 20, 20), 0))
    voc.add("b", ("ant", (1, 1, 20, 20), 0))
    voc.split("train", "a")
    voc.split("val", "b")
    train, val = VocSource(voc.root, "train"), VocSource(voc.root, "val")
    assert train.class_names == val.class_names == ("ant", "dog")
    np.testing.assert_array_equal(train.records.labels, [1])
    np.testing.assert_array_equal(val.records.labels, [0])


def test_given_class_names_must_hold_every_name(voc):
    voc.add("a", ("dog", (1, 1, 20, 20), 0))
    voc.split("train", "a")
    source = VocSource(voc.root, "train", class_names=("cat", "dog"))
    np.testing.assert_array_equal(source.records.labels, [1])
    with pytest.raises(
        ValueError, match=r"(?s)train\.txt.*\(dog\).*given \(2\): cat, bird.*data \(1\): dog"
    ):
        VocSource(voc.root, "train", class_names=("cat", "bird"))


def test_a_class_can_be_a_region_to_ignore(voc):
    voc.add("a", ("skip", (1, 1, 20, 20), 0), ("car", (5, 5, 9, 9), 0), ("cat", (2, 2, 4, 4), 1))
    voc.split("train", "a")
    source = VocSource(voc.root, "train").ignoring(["skip"])
    assert source.class_names == ("car", "cat")
    np.testing.assert_array_equal(source.records.labels, [2, 0, 1])
    np.testing.assert_array_equal(source.records.ignore, [True, False, True])
    assert source.report.counts == {Rule.IGNORED: 1, Rule.IGNORED_CLASS: 1}
    assert source.load_image(0).shape == (40, 60, 3)


def test_every_rule_is_counted_and_names_the_file(voc):
    voc.add("clipped", ("dog", (50, 30, 80, 90), 0))
    voc.add("outside", ("dog", (70, 5, 80, 9), 0))
    voc.add("nan", ("dog", ("nan", 5, 80, 9), 0), ("dog", ("x", 5, 80, 9), 0))
    voc.add("swapped", ("dog", (20, 5, 10, 9), 0))
    voc.add("no_xml")
    (voc.root / "Annotations" / "no_xml.xml").unlink()
    voc.add("bad_xml")
    (voc.root / "Annotations" / "bad_xml.xml").write_text("<annotation>")
    voc.add("no_image", ("dog", (1, 1, 9, 9), 0))
    (voc.root / "JPEGImages" / "no_image.jpg").unlink()
    voc.add("wrong_size", ("dog", (1, 1, 9, 9), 0), size=(40, 60))
    xml = voc.root / "Annotations" / "wrong_size.xml"
    xml.write_text(xml.read_text().replace("<width>60", "<width>0"))
    names = ("clipped", "outside", "nan", "swapped", "no_xml", "bad_xml", "no_image", "wrong_size")
    voc.split("train", *names, "clipped")
    source = VocSource(voc.root, "train")

    (unreadable,) = source.report.examples.pop(Rule.UNREADABLE_IMAGE)
    assert unreadable.startswith("no_image.jpg: cannot read")
    assert source.report.examples == {
        Rule.UNREADABLE_ANNOTATION: [
            f"cannot read {voc.root}/Annotations/no_xml.xml: No such file or directory",
            f"{voc.root}/Annotations/bad_xml.xml is not sound XML: no element found: line 1, "
            "column 12",
        ],
        Rule.DUPLICATE_IMAGE: ["clipped"],
        Rule.SIZE_MISSING: ["wrong_size.jpg"],
        Rule.EMPTY_IMAGE: ["outside.jpg", "nan.jpg", "swapped.jpg"],
        Rule.NOT_FINITE: ["nan.jpg"],
        Rule.NO_EXTENT: ["swapped.jpg"],
        Rule.OUTSIDE: ["outside.jpg"],
        Rule.CLIPPED: ["clipped.jpg"],
    }
    assert source.report.count(Rule.NOT_FINITE) == 2
    assert source.records.image_ids == ["clipped", "outside", "nan", "swapped", "wrong_size"]
    np.testing.assert_array_equal(source.records.boxes, [[49, 29, 60, 40], [0, 0, 9, 9]])
    dropped = VocSource(voc.root, "train", drop_empty=True)
    assert dropped.records.image_ids == ["clipped", "wrong_size"]
    assert dropped.load_image(1).shape == (40, 60, 3)


def test_missing_split_is_named(voc):
    with pytest.raises(OSError, match=r"ImageSets/Main/test\.txt"):
        VocSource(voc.root, "test")


def test_lists_of_one_folder_are_joined(voc):
    for name in "abc":
        voc.add(name, ("dog", (1, 1, 20, 20), 0))
    voc.split("train", "c", "a")
    voc.split("val", "b", "a")
    source = VocSource(voc.root, "train+val")
    assert source.records.image_ids == ["c", "a", "b"]
    assert source.report.examples == {Rule.DUPLICATE_IMAGE: ["a"]}
    assert source.name == "VOC/train+val"


def test_folders_are_joined_and_their_ids_do_not_clash(voc):
    voc.add("a", ("dog", (1, 1, 20, 20), 0))
    voc.add("b", ("cow", (1, 1, 20, 20), 0))
    voc.split("trainval", "a")
    voc.split("test", "b")
    first = voc.root.rename(voc.root.with_name("VOC2007"))
    second = shutil.copytree(first, voc.root.with_name("VOC2012"))
    voc.root = second
    voc.add("a", ("dog", (3, 3, 9, 9), 1), ("ant", (1, 1, 5, 5), 0), size=(30, 20), suffix="png")
    (second / "JPEGImages" / "a.jpg").unlink()
    (second / "Annotations" / "b.xml").unlink()

    source = VocSource(second.parent, "VOC2007/trainval + VOC2012/trainval")
    assert source.class_names == ("ant", "cow", "dog")
    assert source.records.image_ids == ["VOC2007/a", "VOC2012/a"]
    assert source.records.file_names == ["VOC2007/a.jpg", "VOC2012/a.png"]
    np.testing.assert_array_equal(
        source.records.boxes, [[0, 0, 20, 20], [2, 2, 9, 9], [0, 0, 5, 5]]
    )
    np.testing.assert_array_equal(source.records.labels, [2, 2, 0])
    np.testing.assert_array_equal(source.records.ignore, [False, True, False])
    assert [source.load_image(i).shape for i in range(2)] == [(40, 60, 3), (30, 20, 3)]
    assert source.report.examples == {Rule.IGNORED: ["VOC2012/a.png"]}

    # Alone, a folder's images keep their own ids, as its benchmark names them.
    assert VocSource(second.parent, "VOC2007/test").records.image_ids == ["b"]
    with pytest.raises(OSError, match=r"VOC2012/ImageSets/Main/val\.txt"):
        VocSource(second.parent, "VOC2007/trainval+VOC2012/val")


@pytest.mark.parametrize("split", ["", "train+", "VOC2007/"])
def test_splits_of_another_form_are_refused_with_an_example(voc, split):
    with pytest.raises(ValueError, match=r"VOC2007/trainval\+VOC2012/trainval"):
        VocSource(voc.root, split)
