"""Label files: what is written comes back, through this package's readers and by hand."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax.data.sources.voc_xml import half_open, read_annotation
from ipg_jax.data.sources.yolo_files import read_labels
from ipg_jax.inference.formats import FORMATS
from ipg_jax.inference.prediction import Prediction

NAMES = ("cat", "a <dog> & more")


def prediction(boxes, size=(40, 80)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Prediction(
        boxes=boxes,
        scores=np.linspace(0.9, 0.5, len(boxes)).astype(np.float32),
        labels=(np.arange(len(boxes)) % 2).astype(np.int32),
        class_names=NAMES,
        category_ids=(1, 2),
        size=size,
    )


def write(kind, found, path):
    path.write_text(FORMATS[kind].content(found, "../x/a b.jpg"))
    return path


def path_of(*arguments):
    return str(write(*arguments))


def test_yolo_by_hand(tmp_path):
    text = write("yolo", prediction([[0, 0, 8, 4], [20, 10, 60, 30]]), tmp_path / "a").read_text()
    assert text == "0 0.050000 0.050000 0.100000 0.100000\n1 0.500000 0.500000 0.500000 0.500000\n"
    assert write("yolo", prediction([]), tmp_path / "a").read_text() == ""


def test_voc_by_hand(tmp_path):
    """VOC counts from 1 and names the last pixel: columns 2 to 4 are 3 to 5 there."""
    found = prediction([[2, 3, 5, 9], [10.4, 0, 10.6, 0.2]])
    annotation = read_annotation(path_of("voc", found, tmp_path / "a.xml"))
    assert annotation.names == list(NAMES)
    assert annotation.file_name == "a b.jpg"
    assert annotation.size == (40, 80)
    assert annotation.boxes == [(3, 4, 5, 9), (11, 1, 12, 2)]  # two pixels at least
    assert annotation.difficult == [False, False]


def test_labelme_by_hand(tmp_path):
    content = json.loads(write("labelme", prediction([[2, 3, 5.5, 9]]), tmp_path / "a").read_text())
    assert content["imagePath"] == "../x/a b.jpg"
    assert (content["imageHeight"], content["imageWidth"]) == (40, 80)
    (shape,) = content["shapes"]
    assert (shape["label"], shape["shape_type"]) == ("cat", "rectangle")
    assert shape["points"] == [[2.0, 3.0], [5.5, 9.0]]


@given(
    st.lists(
        st.tuples(st.floats(0, 79), st.floats(0, 39), st.floats(0.1, 40), st.floats(0.1, 20)),
        max_size=6,
    )
)
def test_boxes_come_back_to_the_rounding(tmp_path_factory, corners):
    folder = tmp_path_factory.mktemp("labels")
    found = prediction([(x, y, min(x + w, 80), min(y + h, 40)) for x, y, w, h in corners])
    labels = read_labels(path_of("yolo", found, folder / "a.txt"))
    if not labels.repeated:
        boxes = np.array(labels.boxes).reshape(-1, 4) * [80, 40, 80, 40]
        np.testing.assert_allclose(boxes, found.boxes, atol=2e-4)
        np.testing.assert_array_equal(labels.labels, found.labels)
    annotation = read_annotation(path_of("voc", found, folder / "a.xml"))
    boxes = half_open(np.array(annotation.boxes, float).reshape(-1, 4))
    assert np.abs(boxes - found.boxes).max(initial=0) <= 2.5
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (boxes <= [80, 40, 80, 40]).all()
