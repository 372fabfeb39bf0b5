"""Folders of VOC's layout and flat ones: which files belong together, and links between them."""

import os
import shutil

import numpy as np
import pytest
from made_files import VocFolder, encode, random_image

from ipg_jax.data import Rule, VocSource

BOX = ("dog", (2, 3, 20, 30), 0)


def flat(voc: VocFolder) -> None:
    """Turns the folder into one of Roboflow's exports: a folder for each split."""
    for split, stems in (("train", ("a", "b")), ("valid", ("c",))):
        folder = voc.root / split
        folder.mkdir()
        for stem in stems:
            voc.add(stem, BOX if stem != "c" else ("ant", (1, 1, 5, 5), 0))
            shutil.move(voc.root / "JPEGImages" / f"{stem}.jpg", folder)
            shutil.move(voc.root / "Annotations" / f"{stem}.xml", folder)
    for folder in ("JPEGImages", "Annotations", "ImageSets"):
        shutil.rmtree(voc.root / folder)
    (voc.root / "README.roboflow.txt").write_text("exported")


def test_other_files_beside_the_images_do_no_harm(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    folder = voc.root / "JPEGImages"
    for name in ("a.json", "a.txt", "a.xml", "a", "Thumbs.db", ".a.png", "a.png.md5"):
        (folder / name).write_text("{}")
    (folder / "a.d").mkdir()
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ["a.jpg"]
    assert source.report.counts == {}


def test_of_two_images_of_one_name_the_one_that_the_annotation_names_is_read(voc):
    for stem in "abc":
        voc.add(stem, BOX)
        mask = encode(np.zeros((40, 60, 3), np.uint8))
        (voc.root / "JPEGImages" / f"{stem}.png").write_bytes(mask)
    voc.edit("b", ("b.jpg", "C:\\data\\B.PNG"))
    voc.edit("c", ("c.jpg", "other.jpg"))
    voc.split("train", "a", "b", "c")
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ["a.jpg", "b.png"]
    assert source.load_image(0).any()
    assert source.report.examples == {
        Rule.NAMED_FILE: ["a.jpg", "b.png"],
        Rule.AMBIGUOUS_FILE: ["c.jpg"],
    }


@pytest.mark.parametrize("is_flat", [False, True])
def test_several_annotations_of_one_name_are_ambiguous(voc, is_flat):
    voc.split("train", "a", "b")
    if is_flat:
        flat(voc)
        folder, stem, other = voc.root / "train", "train/a", "train/b"
    else:
        voc.add("a", BOX)
        voc.add("b", BOX)
        folder, stem, other = voc.root / "Annotations", "a", "b"
    text = (folder / "a.xml").read_text()
    (folder / "a.XML").write_text(text.replace("dog", "log"))
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == [other]
    assert "log" not in source.class_names
    assert source.report.examples == {Rule.AMBIGUOUS_ANNOTATION: [f"{stem}.xml"]}
    assert source.report.lost == 1


@pytest.mark.parametrize(
    ("others", "named", "taken"),
    [
        (("a.JPG",), "a.jpg", "a.jpg"),
        (("a.JPG",), "a.JPG", "a.JPG"),
        (("a.JPG",), "A.jpg", None),
        (("a.jpeg", "a.png"), "a.jpeg", "a.jpeg"),
        (("a.jpeg", "a.png"), "a.PNG", "a.png"),
        (("a.jpeg", "a.png"), "a.tif", None),
    ],
)
def test_of_images_whose_names_differ_in_the_suffix_the_named_one_is_read(
    voc, others, named, taken
):
    for stem in "ab":
        voc.add(stem, BOX)
    voc.edit("a", ("a.jpg", named))
    for other in others:
        shutil.copy(voc.root / "JPEGImages" / "b.jpg", voc.root / "JPEGImages" / other)
    voc.split("train", "a", "b")
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ([taken] if taken else []) + ["b.jpg"]
    rule = Rule.NAMED_FILE if taken else Rule.AMBIGUOUS_FILE
    (name,) = source.report.examples[rule]
    assert taken in (None, name)


def test_flat_folders_without_lists(voc):
    flat(voc)
    (voc.root / "train" / "unlabelled.png").write_bytes(encode(random_image(8, 8)))
    train = VocSource(voc.root, "train")
    assert train.records.image_ids == ["train/a", "train/b"]
    assert train.class_names == ("ant", "dog")  # of all folders: labels do not depend on the split
    assert train.load_image(1).shape == (40, 60, 3)
    (reason,) = train.report.examples[Rule.UNREADABLE_ANNOTATION]
    assert "train/unlabelled.xml: No such file" in reason
    both = VocSource(voc.root, "valid+train")
    assert both.records.image_ids == ["valid/c", "train/a", "train/b"]
    assert VocSource(voc.root / "valid", ".").records.image_ids == ["c"]
    with pytest.raises(OSError, match=r"ImageSets/Main/test\.txt, nor a folder .*test"):
        VocSource(voc.root, "test")


@pytest.mark.parametrize(
    ("links", "split", "ids", "unfollowed"),
    [
        pytest.param({"train/up": ".."}, "train", "ab", ["up"], id="to the parent"),
        pytest.param({"train/x": "."}, "train", "ab", ["x"], id="to itself"),
        pytest.param({"up": "."}, ".", "abc", ["up"], id="to the root"),
        pytest.param({"a": "train", "z": "train"}, ".", "abc", ["a", "z"], id="to a sibling"),
        pytest.param({"all": "train"}, "all", "ab", [], id="a split that is a link"),
        pytest.param({"all": "train"}, "train+all", "ab", [], id="a split beside its link"),
        pytest.param(
            {"train/x": "../valid", "valid/x": "../train"}, "train", "abc", ["x/x"], id="crossed"
        ),
        pytest.param(
            {"train/x": "../../out", "out/up": "."}, "train", "ab", ["x/up"], id="outside"
        ),
        pytest.param(
            {"out/in": "../VOC/train", "train/x": "../../out"},
            "train",
            "ab",
            ["x/in"],
            id="from outside",
        ),
    ],
)
def test_links_between_folders_multiply_no_image(voc, links, split, ids, unfollowed):
    flat(voc)
    (voc.root.parent / "out").mkdir()
    for link, target in links.items():
        (voc.root.parent / link if "out" in link else voc.root / link).symlink_to(target)
    source = VocSource(f"file://{voc.root}", split)  # which TensorFlow reads as well
    folder_of = {"a": "train", "b": "train", "c": "valid"}
    assert sorted(source.records.image_ids) == [f"{folder_of[i]}/{i}" for i in ids]
    links = [os.path.join("" if split == "." else split, link) for link in unfollowed]
    assert source.report.examples.get(Rule.UNFOLLOWED_LINK, []) == links
    repeated = source.report.count(Rule.DUPLICATE_IMAGE)
    assert repeated == (2 if "+" in split else 0)
    assert [source.load_image(i).shape for i in range(len(ids))] == [(40, 60, 3)] * len(ids)


def test_links_to_images_are_reported_as_one_file_of_several_ids(voc):
    flat(voc)
    (voc.root / "train" / "z.jpg").symlink_to("a.jpg")
    (voc.root / "train" / "z.xml").symlink_to("a.xml")
    source = VocSource(voc.root, "train")
    assert source.records.image_ids == ["train/a", "train/b", "train/z"]
    assert source.report.examples == {Rule.SHARED_FILE: ["train/z.jpg"]}


def test_lists_may_name_images_by_links(voc):
    (voc.root / "JPEGImages" / "day").mkdir()
    (voc.root / "Annotations" / "day").mkdir()
    voc.add("day/a", BOX, suffix="png")
    for folder in ("JPEGImages", "Annotations"):
        (voc.root / folder / "night").symlink_to("day")
        (voc.root / folder / "up").symlink_to("..")
    voc.split("train", "night/a", "day/a")
    source = VocSource(voc.root, "train")
    assert source.records.file_names == ["day/a.png"]
    assert source.report.examples == {Rule.DUPLICATE_IMAGE: ["day/a"]}

    (voc.root / "Annotations" / "night").unlink()
    shutil.copytree(voc.root / "Annotations" / "day", voc.root / "Annotations" / "night")
    source = VocSource(voc.root, "train")  # an annotation of its own for each id
    assert source.records.image_ids == ["night/a", "day/a"]
    assert source.report.examples == {Rule.SHARED_FILE: ["day/a.png"]}


def test_lists_and_flat_folders_are_not_joined(voc):
    voc.add("a", BOX)
    voc.split("train", "a")
    (voc.root / "valid").mkdir()
    with pytest.raises(ValueError, match=r"valid of the splits are folders"):
        VocSource(voc.root, "train+valid")


def test_a_root_that_is_a_file_is_named(voc):
    (voc.root / "all.zip").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match=r"all\.zip is a file: the root is the folder"):
        VocSource(voc.root / "all.zip", "train")


def test_a_missing_folder_is_named(voc):
    voc.split("train", "a")
    shutil.rmtree(voc.root / "Annotations")
    with pytest.raises(OSError, match=r"cannot list .*Annotations"):
        VocSource(voc.root, "train")
