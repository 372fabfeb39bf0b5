"""`Detector` on a task that sees bright rectangles: batches, order, boxes, what cannot be read."""

import io
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from bright_task import TRACED, make, picture
from PIL import Image

from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.images import TileGrid, read_picture
from ipg_jax.training.sharding import make_mesh


def test_boxes_are_in_pixels_of_the_picture():
    # 128 x 64 is halved: bright pixels 12 to 19 are the network's 6 to 9.
    found = make().predict(picture(64, 128, (12, 8, 20, 24)))
    np.testing.assert_array_equal(found.boxes, [[12, 8, 20, 24]])
    np.testing.assert_allclose(found.scores, [0.8])
    assert found.names == ["bright"]
    assert found.size == (64, 128)
    assert len(found) == 1


def test_thresholds():
    image = picture(32, 64, (1, 2, 3, 4))
    detector = make(threshold=0.9)
    assert len(detector.predict(image)) == 0
    assert detector.predict(image, threshold=0.0).labels.tolist() == [0, 1]
    assert detector.predict(image, threshold=0.5).labels.tolist() == [0]
    with pytest.raises(ValueError, match=r"score from 0 to 1, not 1\.5"):
        detector.predict(image, threshold=1.5)


def test_each_class_may_have_its_threshold():
    image = picture(32, 64, (1, 2, 3, 4))  # of scores 0.8 and 0.1
    assert make(threshold=[0.9, 0.05]).predict(image).labels.tolist() == [1]
    assert make().predict(image, threshold=[0.7, 0.05]).labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"a score or 2, one of each class, not of shape \(3,\)"):
        make(threshold=[0.1, 0.2, 0.3])


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_streams_keep_the_order_whatever_the_shapes_and_batches(batch_size):
    """Landscape and portrait pictures are two programs, and a rare one waits for its batch."""
    pictures = [
        picture(64, 32, (i, 3, i + 2, 9)) if i in (2, 3, 17) else picture(32, 64, (i, 3, i + 2, 9))
        for i in range(20)
    ]
    found = make(batch_size=batch_size).predict(pictures)
    assert [int(one.boxes[0, 0]) for one in found] == list(range(20))
    assert [one.size for one in found] == [image.shape[:2] for image in pictures]


def test_a_stream_is_as_long_as_one_likes():
    """Of pictures without end some are taken in advance, and the first come at once."""
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield picture(32, 64, (0, 0, 2, 2))

    stream = make(batch_size=2).stream(endless())
    assert next(stream).result().boxes[0].tolist() == [0, 0, 2, 2]
    assert taken <= 8
    stream.close()


def test_large_pictures_in_tiles(tmp_path):
    # Two spots in the far corners of 96 x 128: the whole shows a box around both, tiles show each.
    image = picture(96, 128, (2, 3, 6, 8)) + picture(96, 128, (120, 90, 125, 95))
    spots = [[2, 3, 6, 8], [120, 90, 125, 95]]
    tiles = Tiles(grid=TileGrid((32, 64), 0.0), merge=BoxMerge(), whole=False)
    detector = make(tiles=tiles, batch_size=4)
    assert sorted(detector.predict(image).boxes.tolist()) == spots
    np.testing.assert_allclose(
        detector.predict(image, tiles=False).boxes, [[2, 3, 125, 95]], atol=3
    )
    # A size alone: overlapping, and the whole picture as well, with a box larger than a tile.
    boxes = make(batch_size=2).predict(image, tiles=(32, 64)).boxes
    assert (boxes[:, 2] - boxes[:, 0]).max() > 64
    # The same by arguments of the detector: 4 x 5 tiles of 32 x 32 by half, and the whole.
    by_size = make(tiles=(32, 32), tile_overlap=0.5, merge=BoxMerge(method="nms", metric="iou"))
    whole = Tiles(
        grid=TileGrid((32, 32), 0.5), merge=BoxMerge(method="nms", metric="iou"), whole=True
    )
    np.testing.assert_array_equal(
        by_size.predict(image).boxes, detector.predict(image, tiles=whole).boxes
    )
    (tmp_path / "broken.png").write_bytes(b"nothing")
    seen = list(detector.stream([image, tmp_path / "broken.png", image]))
    assert [one.error is None for one in seen] == [True, False, True]
    with pytest.raises(ValueError, match="the detector has no tiles: give their size"):
        make().predict(image, tiles=True)


def test_what_cannot_be_read_comes_with_its_error_or_raises(tmp_path):
    sound = tmp_path / "sound.png"
    Image.fromarray(picture(32, 64, (5, 3, 9, 9))).save(sound)
    (tmp_path / "broken.jpg").write_bytes(b"nothing")
    names = [sound, tmp_path / "gone.png", tmp_path / "broken.jpg", str(sound)]
    seen = list(make(batch_size=2).stream(names))
    assert [one.error is None for one in seen] == [True, False, False, True]
    assert seen[1].pixels is None
    np.testing.assert_array_equal(seen[3].pixels, read_picture(sound))
    assert seen[3].found.boxes.tolist() == [[5, 3, 9, 9]]
    with pytest.raises(OSError, match=r"gone\.png"):
        make().predict(names)
    with pytest.raises(ValueError, match="not a readable image"):
        make().predict(tmp_path / "broken.jpg")


@pytest.mark.parametrize("tiles", [None, (32, 64)])
def test_an_error_of_the_program_is_raised_behind_what_was_found_before(tiles):
    """A picture that cannot be read is reported; a bug, here of what makes pictures, is not."""

    def pictures():
        for i in range(3):
            yield picture(32, 64, (i, 3, i + 2, 9))
        raise KeyError("no fourth")

    found = []
    with pytest.raises(KeyError, match="no fourth"):
        found.extend(make(batch_size=2).stream(pictures(), tiles=tiles))
    assert [int(one.found.boxes[0, 0]) for one in found] == [0, 1, 2]
    with pytest.raises(TypeError):
        make().predict([3.5])


def test_pictures_of_pillow_come_upright():
    image = Image.fromarray(picture(32, 64, (5, 3, 9, 9)))
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    stored = io.BytesIO()
    image.save(stored, "PNG", exif=exif)
    found = make().predict(Image.open(stored))
    assert found.size == (64, 32)
    np.testing.assert_array_equal(found.boxes, [[32 - 9, 5, 32 - 3, 9]])
    assert make().predict(image.convert("L")).boxes.tolist() == [[5, 3, 9, 9]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"float32 \[4, 4, 3\] is no picture: .* uint8"),
        (np.zeros((4, 4), np.uint8), r"\[height, width, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"\[height, width, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), "is empty"),
    ],
)
def test_arrays_that_are_no_pictures_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        make().predict(array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (64, 32)}, r"got \(64, 32\)"),
        ({"category_ids": []}, "0 category ids"),
    ],
)
def test_wrong_options_are_refused_before_the_first_picture(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


WRONG_TYPES = """
from bright_task import make

detector = make()
for options in ({"threshold": "a"}, {"tiles": 512}, {"image_size": 512}, {"merge": "nms"}):
    try:
        make(**options)
    except (TypeError, ValueError) as error:
        print(error)
for picture in (None, 7, b"a.jpg", iter(["a.jpg"])):
    try:
        detector.predict(picture)
    except TypeError as error:
        print(error)
"""


def test_values_of_wrong_types_are_refused_by_name():
    # In a process of its own, without the tests' checks of all types.
    result = subprocess.run(
        [sys.executable, "-c", WRONG_TYPES],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([os.path.dirname(__file__), os.getcwd()])},
    )
    messages = result.stdout.splitlines()
    for message, start in zip(
        messages,
        [
            "threshold is a score from 0 to 1, not 'a'",
            "the size of a tile is two whole numbers above 0",
            "image_size is (short, long), whole numbers with 0 < short <= long, got 512",
            "merge is a BoxMerge, such as BoxMerge(method='nms'), not 'nms'",
            "a NoneType is no picture: ",
            "a int is no picture: ",
            "a bytes is no picture: ",
            "a list_iterator is no picture: ",
        ],
        strict=True,
    ):
        assert message.startswith(start)


def test_an_empty_picture_of_pillow_is_refused():
    with pytest.raises(ValueError, match=r"the picture \[0, 0, 3\] is empty"):
        make().predict(Image.new("RGB", (0, 0)))


def test_a_file_that_is_no_picture_is_named(tmp_path):
    (tmp_path / "a.jpg").write_text("text")
    with pytest.raises(ValueError, match=r"a\.jpg: not a readable image"):
        make().predict([np.zeros((8, 8, 3), np.uint8), tmp_path / "a.jpg"])


def test_no_pictures():
    assert make().predict([]) == []


def test_several_devices():
    mesh = make_mesh(data=2, space=2, devices=jax.devices()[:4])
    pictures = [picture(32, 64, (i, 3, i + 2, 9)) for i in range(5)]
    one = make().predict(pictures)
    for a, b in zip(one, make(mesh=mesh, batch_size=4).predict(pictures), strict=True):
        np.testing.assert_array_equal(a.boxes, b.boxes)
    with pytest.raises(ValueError, match="batch_size=3 is not a multiple of the 2 devices"):
        make(mesh=mesh, batch_size=3)


def test_class_names_must_be_as_many_as_classes():
    with pytest.raises(ValueError, match="there are 1 class names, and the task has 2"):
        make(class_names=["bright"])


def test_it_says_what_it_is():
    assert repr(make()) == (
        "<Detector of 2 classes: bright, dim; image_size=(32, 64), batch_size=1>"
    )
    assert ", tiles=(32, 32), batch_size=2>" in repr(make(tiles=(32, 32), batch_size=2))


def test_warm_up_compiles_what_comes():
    detector = make()
    TRACED.clear()
    detector.warm_up()
    assert TRACED == [(1, 32, 64, 3), (1, 64, 32, 3)]
    detector.predict([picture(32, 64, (0, 0, 2, 2)), picture(70, 20, (0, 0, 2, 2))])
    assert len(TRACED) == 2


def test_predictions_as_coco_and_pictures():
    image = picture(32, 64, (5, 3, 9, 9))
    found = make(category_ids=[7, "x"]).predict(image, threshold=0.0)
    assert found.to_coco("a")[0] == {
        "image_id": "a",
        "category_id": 7,
        "bbox": [5.0, 3.0, 4.0, 6.0],
        "score": pytest.approx(0.8),
    }
    assert [row["category_id"] for row in found.to_coco(3)] == [7, "x"]
    best = found.select(found.scores > 0.5)
    assert best.labels.tolist() == [0]
    drawn = best.draw(image)
    assert drawn.shape == image.shape
    assert (drawn != image).any()
    with pytest.raises(ValueError, match="the picture is of"):
        best.draw(image[:-1])


def test_neither_tensorflow_nor_orbax_is_imported():
    code = (
        "import sys, ipg_jax.inference.detector; "
        "assert sys.modules.keys().isdisjoint({'tensorflow', 'orbax.checkpoint'})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
