"""YOLO data sets: folders and lists of images, boxes and polygons, and what is wrong with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_files import YoloFolder

from ipg_jax.data import Rule, YoloSource
from ipg_jax.data.sources.yolo_files import label_path


def objects_of(source, name):
    return source.records.objects(source.records.image_ids.index(name))


def test_boxes_are_shares_of_the_image(yolo):
    # Centre (40, 10) of 80 x 40 pixels, 20 wide and 10 high.
    yolo.add("images/train/a.png", "1 0.5 0.25 0.25 0.25", "0 0.5 0.5 1 1")
    yolo.add("images/train/deep/b.png")
    source = YoloSource(yolo.root, "train")
    assert source.records.image_ids == ["images/train/a.png", "images/train/deep/b.png"]
    found = objects_of(source, "images/train/a.png")
    np.testing.assert_allclose(found.boxes, [[30, 5, 50, 15], [0, 0, 80, 40]])
    np.testing.assert_array_equal(found.labels, [1, 0])
    np.testing.assert_allclose(found.area, [200, 3200])
    assert not found.ignore.any()
    assert source.class_names == ("cat", "dog")
    assert source.category_ids == (0, 1)
    assert source.name == "animals/train"
    assert source.report.counts == {Rule.EMPTY_IMAGE: 1}
    assert source.load_image(0).shape == (40, 80, 3)


def test_polygons_become_boxes_and_scores_are_left_out(yolo):
    yolo.add("images/train/a.png", "0 0.1 0.2 0.5 0.1 0.3 0.9", "1 0.5 0.5 0.1 0.1 0.87")
    source = YoloSource(yolo.root, "train")
    found = objects_of(source, "images/train/a.png")
    np.testing.assert_allclose(found.boxes, [[8, 4, 40, 36], [36, 18, 44, 22]], rtol=1e-6)
    assert source.report.counts == {Rule.POLYGON_BOX: 1}


def test_keypoints_of_poses_are_left_out(yolo):
    """Two keypoints of x, y and a visibility of 0 to 2, behind a box or none."""
    yolo.yaml("train: images/train", "names: [cat, dog]", "kpt_shape: [2, 3]")
    yolo.add(
        "images/train/a.png",
        "1 0.5 0.25 0.25 0.25 0.4 0.2 2 1.3 0.3 0",
        "0 0.5 0.5 1 1",
        "0 0.1 0.2 0.5 0.1 0.3 0.9",  # neither
    )
    source = YoloSource(yolo.root, "train")
    found = objects_of(source, "images/train/a.png")
    np.testing.assert_allclose(found.boxes, [[30, 5, 50, 15], [0, 0, 80, 40]])
    np.testing.assert_array_equal(found.labels, [1, 0])
    assert source.report.counts == {Rule.MALFORMED_LINE: 1}
    # Of x and y alone: 8 values are no polygon.
    yolo.yaml("train: images/train", "names: [cat, dog]", "kpt_shape: [2, 2]")
    yolo.add("images/train/a.png", "1 0.5 0.25 0.25 0.25 0.1 0.9 0 0")
    source = YoloSource(yolo.root, "train")
    np.testing.assert_allclose(source.records.boxes, [[30, 5, 50, 15]])
    assert source.report.counts == {}


def test_what_is_wrong_is_dropped_and_counted(yolo):
    yolo.add(
        "images/train/a.png",
        "0 0.5 0.5 0.1 0.1",
        "0 0.5 0.5 0.1 0.1",
        "0  0.5 0.5\t0.1 0.1",
        "0 0.5 0.5 0.1",
        "cat 0.5 0.5 0.1 0.1",
        "0.5 0.5 0.5 0.1 0.1",
        "-1 0.5 0.5 0.1 0.1",
        "7 0.5 0.5 0.1 0.1",
        "1 36 18 44 22",
        "1 nan 0.5 0.1 0.1",
        "1 0.5 0.5 0 0.1",
        "1 0.98 0.5 0.1 0.1",
        "1 1.005 0.5 0.1 0.1",
    )
    source = YoloSource(yolo.root, "train")
    assert source.report.counts == {
        Rule.DUPLICATE_OBJECT: 2,
        Rule.MALFORMED_LINE: 4,
        Rule.UNKNOWN_CATEGORY: 1,
        Rule.NOT_SHARES: 1,
        Rule.NOT_FINITE: 1,
        Rule.NO_EXTENT: 1,
        Rule.CLIPPED: 2,
    }
    assert len(source.records.boxes) == 3
    assert "images/train/a.png: 1 36 18 44 22" in str(source.report)


def test_classes_as_a_map_and_as_floats(yolo):
    yolo.yaml("train: images/train", "names:", "  1: dog", "  0: cat", "nc: 2")
    yolo.add("images/train/a.png", "1.0 0.5 0.5 0.1 0.1")
    source = YoloSource(yolo.root / "data.yaml", "train", class_names=["dog", "cat"])
    assert source.class_names == ("dog", "cat")
    assert source.category_ids == (1, 0)
    np.testing.assert_array_equal(source.records.labels, [0])


def test_splits_are_folders_lists_or_several_of_them(yolo):
    for name in ("images/a/1.png", "images/b/2.png", "images/c/3.png", "images/c/4.png"):
        yolo.add(name, "0 0.5 0.5 0.1 0.1")
    yolo.yaml("train: [images/a, lists/train.txt]", "names: [cat]")
    (yolo.root / "lists").mkdir()
    (yolo.root / "lists" / "train.txt").write_text(
        "images/b/2.png\r\n\r\n./../images/c/4.png\nimages/a/1.png\n"
    )
    source = YoloSource(yolo.root, "train")
    assert source.records.image_ids == ["images/a/1.png", "images/b/2.png", "images/c/4.png"]
    assert source.report.counts == {Rule.DUPLICATE_IMAGE: 1}


@pytest.mark.parametrize("path", [None, ".", "..", "ABSOLUTE"])
def test_path_is_where_splits_begin(yolo, tmp_path, path):
    (yolo.root / "config").mkdir(parents=True)
    yolo.add("images/train/a.png", "0 0.5 0.5 0.1 0.1")
    start = {"..": "config", None: ".", ".": ".", "ABSOLUTE": "config"}[path]
    text = path and path.replace("ABSOLUTE", str(yolo.root))
    lines = [f"path: {text}"] if text else []
    file = yolo.root / start / "animals.yaml"
    file.write_text("\n".join([*lines, "train: images/train", "names: [cat]"]))
    assert len(YoloSource(file, "train").records.boxes) == 1


def test_roboflow_writes_paths_that_lead_beside_the_folder(yolo):
    yolo.yaml("train: ../train/images", "val: ../valid/images", "nc: 1", "names: ['cat']")
    yolo.add("train/images/a.png", "0 0.5 0.5 0.1 0.1")
    source = YoloSource(yolo.root, "train")
    assert source.records.image_ids == ["train/images/a.png"]
    assert len(source.records.boxes) == 1


def test_labels_lie_where_the_last_images_is_replaced_or_beside_the_image():
    assert label_path("/images/x/images/train/a.b.jpg") == "/images/x/labels/train/a.b.txt"
    assert label_path("images/a.jpg") == "labels/a.txt"
    assert label_path("/data/my_images/a.jpg") == "/data/my_images/a.txt"
    assert label_path("gs://bucket/images/a.jpg") == "gs://bucket/labels/a.txt"


def test_unreadable_files_are_counted(yolo):
    for name in "abc":
        yolo.add(f"images/train/{name}.png", "0 0.5 0.5 0.1 0.1")
    (yolo.root / "labels/train/a.txt").write_bytes(b"\xff\x00\xfa0 0.5")
    (yolo.root / "images/train/b.png").write_bytes(b"no image")
    source = YoloSource(yolo.root, "train")
    assert source.records.image_ids == ["images/train/c.png"]
    assert source.report.counts == {Rule.UNREADABLE_IMAGE: 1, Rule.UNREADABLE_ANNOTATION: 1}
    # Both files of an image: it is lost once.
    (yolo.root / "images/train/a.png").write_bytes(b"no image")
    source = YoloSource(yolo.root, "train")
    assert source.report.counts == {Rule.UNREADABLE_IMAGE: 2}
    assert (source.report.lost, source.expected_images) == (2, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: images/train", "has no `names:`, a list of the classes"),
        ("names: cat", "has no `names:`"),
        ("names: [a, b, a]", "names a more than once"),
        ("names: {1: a, 2: b}", "they have to run from 0 on"),
        ("names: [a]\nnc: 2", "names 1 classes and says nc: 2"),
        ("names: [a]\npath: 3", "path is a folder, not 3"),
        ("names: [a]\nval: images", r"no folder or list of images for train; it has val"),
        ("names: [a]\ntrain: [3]", r"train is a folder or a list of images.* not \[3\]"),
        ("names: [a]\ntrain: {a: b}", r"train is a folder or a list of images.* not \{'a': 'b'\}"),
        ("names: [a]\ntrain: []", r"no folder or list of images for train; it has no splits"),
        ("names: [a]\nkpt_shape: 17", r"kpt_shape is .* such as \[17, 3\], not 17"),
        ("names: [a]\nkpt_shape: [17, 4]", r"kpt_shape is .*, not \[17, 4\]"),
        ("names: [a]\nkpt_shape: [0, 3]", r"kpt_shape is .*, not \[0, 3\]"),
        ("names: [a]\ntrain: gone", r"cannot list .*gone"),
        ("names: [a]\ntrain: gone.txt", r"cannot read .*gone\.txt"),
        ("names: [a", "is not YAML"),
        ("- 3", "holds no `names:`"),
        ("", "holds no `names:`"),
    ],
)
def test_damaged_descriptions_are_refused_by_name(yolo, text, message):
    yolo.yaml(text)
    with pytest.raises((OSError, ValueError), match=message) as caught:
        YoloSource(yolo.root, "train")
    assert str(yolo.root) in str(caught.value)


def test_a_folder_without_data_yaml_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"data\.yaml"):
        YoloSource(tmp_path, "train")


@settings(max_examples=20)
@given(st.lists(st.tuples(*[st.floats(0, 79)] * 2, *[st.floats(0, 39)] * 2), max_size=8))
def test_written_boxes_come_back_to_the_rounding(tmp_path_factory, corners):
    """Six decimals of a share are 4e-5 of 80 pixels at each side of a centre and a length."""
    boxes = [
        (min(x0, x1), min(y0, y1), max(x0, x1) + 1, max(y0, y1) + 1) for x0, x1, y0, y1 in corners
    ]
    boxes = list(dict.fromkeys(boxes))
    lines = [
        f"{i % 2} {(x0 + x1) / 160:.6f} {(y0 + y1) / 80:.6f} {(x1 - x0) / 80:.6f} "
        f"{(y1 - y0) / 40:.6f}"
        for i, (x0, y0, x1, y1) in enumerate(boxes)
    ]
    yolo = YoloFolder(tmp_path_factory.mktemp("yolo"))
    yolo.add("images/train/a.png", *dict.fromkeys(lines))
    source = YoloSource(yolo.root, "train")
    if len(set(lines)) == len(lines):
        np.testing.assert_allclose(
            source.records.boxes.reshape(-1, 4), boxes or np.zeros((0, 4)), atol=1e-4
        )
