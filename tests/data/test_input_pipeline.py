import dataclasses
import subprocess
import sys
from itertools import islice

import numpy as np
import pytest
from made_files import random_image

from ipg_jax.data import (
    CocoSource,
    eval_batches,
    global_batch_records,
    train_batches,
)
from ipg_jax.images import prepare_image
from ipg_jax.types import PackedImage

SETTINGS = {"image_size": (32, 48), "levels": 3, "pad_multiple": 16}
TRAINING = {"batch_size": 4, "seed": 5, **SETTINGS}


@pytest.fixture
def source(coco):
    """Eleven images, four of them portrait; image `i` has `i % 4` objects."""
    for i in range(11):
        coco.add_image(100 + i, size=(60, 40) if i % 3 == 2 else (40, 60))
        for j in range(i % 4):
            coco.add_box(100 + i, 4 * j, 2 * j, 10, 12, category_id=(3, 7)[j % 2], iscrowd=j == 2)
    return CocoSource(*coco.write())


def arrays(batch):
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    pyramid = fields.pop("pyramid")
    return fields | {f"level{i}": level for i, level in enumerate(pyramid)}


def assert_equal_batches(a, b):
    for name, value in arrays(a).items():
        np.testing.assert_array_equal(value, arrays(b)[name], err_msg=name)


def test_packed_pyramids_hold_the_same_pixels(source):
    for make, settings in ((train_batches, TRAINING), (eval_batches, SETTINGS | {"batch_size": 4})):
        plain = islice(make(source, **settings), 3)
        packed = make(source, space_to_depth=True, **settings)
        for batch, other in zip(plain, packed, strict=False):
            for image, level in zip(batch.pyramid, other.pyramid, strict=True):
                np.testing.assert_array_equal(level.blocks, PackedImage.pack(image).blocks)


def test_shapes_and_types(source):
    shapes = set()
    for batch in islice(train_batches(source, **TRAINING), 6):
        height, width = batch.pyramid[0].shape[1:3]
        shapes.add((height, width))
        for i, level in enumerate(batch.pyramid):
            assert level.shape == (4, height >> i, width >> i, 3)
            assert level.dtype == np.uint8
        expected = {
            "boxes": ((4, 8, 4), np.float32),
            "labels": ((4, 8), np.int32),
            "valid": ((4, 8), np.bool_),
            "ignore": ((4, 8), np.bool_),
            "image_size": ((4, 2), np.int32),
            "scale": ((4, 2), np.float32),
            "image_id": ((4,), np.int32),
            "weight": ((4,), np.float32),
        }
        for name, (shape, dtype) in expected.items():
            value = getattr(batch, name)
            assert isinstance(value, np.ndarray)
            assert (value.shape, value.dtype) == (shape, dtype), name
    assert shapes == {(32, 48), (48, 32)}


def test_batches_hold_the_records(source):
    """Without flips every row is what the source has, scaled."""
    for batch in islice(train_batches(source, **TRAINING, flip=0.0), 6):
        for row, index in enumerate(batch.image_id.tolist()):
            objects = source.records.objects(index)
            count = len(objects.boxes)
            np.testing.assert_array_equal(batch.valid[row], np.arange(8) < count)
            np.testing.assert_array_equal(batch.labels[row, :count], objects.labels)
            np.testing.assert_array_equal(batch.ignore[row, :count], objects.ignore)
            size = np.array(source.size(index))
            np.testing.assert_array_equal(
                batch.scale[row], np.float32(batch.image_size[row] / size)
            )
            y, x = batch.scale[row]
            np.testing.assert_array_equal(
                batch.boxes[row, :count], objects.boxes * np.array([x, y, x, y])
            )
            pyramid, image_size, scale = prepare_image(source.load_image(index), **SETTINGS)
            np.testing.assert_array_equal(batch.image_size[row], image_size)
            np.testing.assert_array_equal(batch.scale[row], scale)
            for level, single in zip(batch.pyramid, pyramid, strict=True):
                np.testing.assert_array_equal(level[row], single)
        np.testing.assert_array_equal(batch.weight, 1)


def test_flips_mirror_content_and_boxes(source):
    plain = train_batches(source, **TRAINING, flip=0.0)
    for flipped, batch in islice(
        zip(train_batches(source, **TRAINING, flip=1.0), plain, strict=False), 4
    ):
        np.testing.assert_array_equal(flipped.image_id, batch.image_id)
        np.testing.assert_array_equal(flipped.image_size, batch.image_size)
        for row, (height, width) in enumerate(batch.image_size):
            content = batch.pyramid[0][row, :height, :width].astype(int)
            mirrored = flipped.pyramid[0][row, :height, :width].astype(int)
            # The interpolation weights of a mirrored grid differ in their last bit.
            assert np.abs(mirrored[:, ::-1] - content).max() <= 1
            assert not flipped.pyramid[0][row, :, width:].any()
            valid = batch.valid[row]
            x0, y0, x1, y1 = batch.boxes[row, valid].T
            np.testing.assert_allclose(
                flipped.boxes[row, valid],
                np.stack([width - x1, y0, width - x0, y1], axis=1),
                atol=1e-5,
            )
    halves = [
        a.pyramid[0][row].tobytes() == b.pyramid[0][row].tobytes()
        for a, b in islice(
            zip(
                train_batches(source, **TRAINING),
                train_batches(source, **TRAINING, flip=0.0),
                strict=False,
            ),
            8,
        )
        for row in range(4)
    ]
    assert 0.2 < np.mean(halves) < 0.8


def test_resuming_gives_the_same_batches(source):
    whole = list(islice(train_batches(source, **TRAINING), 9))
    for start in (1, 5):
        resumed = train_batches(source, **TRAINING, start_step=start)
        for expected, batch in zip(whole[start:], resumed, strict=False):
            assert_equal_batches(expected, batch)


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_global_batch(source, processes):
    def parts(make, **settings):
        return [
            list(islice(make(source, **settings, rows=range(p, 4, processes)), 6))
            for p in range(processes)
        ]

    evaluation = {"batch_size": 4, **SETTINGS}
    for make, settings in ((train_batches, TRAINING), (eval_batches, evaluation)):
        whole = list(islice(make(source, **settings), 6))
        for expected, *shares in zip(whole, *parts(make, **settings), strict=True):
            for name, value in arrays(expected).items():
                for process, share in enumerate(shares):
                    rows = value[process::processes]
                    np.testing.assert_array_equal(arrays(share)[name], rows, err_msg=name)


@pytest.mark.parametrize("repeats", [None, np.linspace(1, 2, 11)])
def test_global_batch_records_name_what_the_batch_holds(source, repeats):
    batches = train_batches(source, repeats=repeats, **TRAINING)
    for step, batch in enumerate(islice(batches, 6)):
        named = global_batch_records(
            source,
            step,
            batch_size=4,
            seed=5,
            image_size=SETTINGS["image_size"],
            repeats=repeats,
        )
        records = source.records
        assert named == [(records.image_ids[i], records.file_names[i]) for i in batch.image_id]


def test_evaluation_covers_every_image_once(source):
    batches = list(eval_batches(source, batch_size=4, **SETTINGS))
    seen = np.concatenate([batch.image_id[batch.weight == 1] for batch in batches])
    assert sorted(seen.tolist()) == list(range(11))
    # Eight landscape and three portrait images make two full batches and one with padding.
    assert [int(batch.weight.sum()) for batch in batches] == [4, 4, 3]
    last = batches[-1]
    assert last.image_id[3] == 0
    assert not last.valid[3].any()
    assert not any(level[3].any() for level in last.pyramid)
    np.testing.assert_array_equal(last.image_size[3], [48, 32])
    np.testing.assert_array_equal(last.scale[3], [1, 1])


def test_evaluation_of_mirrored_images(source):
    plain, mirrored = (
        list(eval_batches(source, batch_size=4, **SETTINGS, flip=flip)) for flip in (False, True)
    )
    for batch, flipped in zip(plain, mirrored, strict=True):
        for name in ("image_id", "image_size", "scale", "weight", "labels", "valid"):
            np.testing.assert_array_equal(getattr(batch, name), getattr(flipped, name))
        for row, (height, width) in enumerate(batch.image_size):
            content = batch.pyramid[0][row, :height, :width].astype(int)
            other = flipped.pyramid[0][row, :height, :width].astype(int)
            assert np.abs(other[:, ::-1] - content).max() <= 1
            x0, _, x1, _ = batch.boxes[row, batch.valid[row]].T
            np.testing.assert_allclose(
                flipped.boxes[row, batch.valid[row]][:, [0, 2]],
                np.stack([width - x1, width - x0], axis=1),
                atol=1e-5,
            )


def test_unreadable_files_do_not_end_the_run(source, caplog):
    for index in (2, 4):
        with open(source.paths[index], "wb") as file:
            file.write(b"no image")
    batches = list(eval_batches(source, batch_size=4, **SETTINGS))
    lost = {
        int(index): (batch, row)
        for batch in batches
        for row, index in enumerate(batch.image_id)
        if batch.weight[row] == 0 and index  # rows that fill up the last batch have index 0
    }
    assert sorted(lost) == [2, 4]
    for batch, row in lost.values():
        assert not any(level[row].any() for level in batch.pyramid)
        assert not batch.valid[row].any()
        assert (batch.image_size[row] > 1).all()
    assert sum(batch.weight.sum() for batch in batches) == 9
    assert source.unreadable == 2
    assert sum("left out" in record.getMessage() for record in caplog.records) == 2


@pytest.mark.parametrize("error", [KeyError("key"), StopIteration("end"), MemoryError("none left")])
def test_what_is_no_damage_to_a_file_ends_the_run_with_the_name_of_the_image(source, error):
    def load_image(index):
        if index == 2:
            raise error
        return random_image(*source.size(index))

    source.load_image = load_image
    expected = f"^instances.json: 102.png: {type(error).__name__}: .*{error.args[0]}"
    with pytest.raises(RuntimeError, match=expected) as caught:
        list(eval_batches(source, batch_size=4, **SETTINGS))
    assert caught.value.__cause__ is error


def test_images_of_another_size_than_the_records_say_are_an_error(source):
    source.load_image = lambda index: random_image(41, 60)
    with pytest.raises(RuntimeError, match=r"10\d\.png: TypeError: .*\(41, 60, 3\).*\(40, 60, 3\)"):
        next(eval_batches(source, batch_size=4, **SETTINGS))


def test_max_boxes(source, caplog):
    batch = next(eval_batches(source, batch_size=4, **SETTINGS))
    assert batch.boxes.shape[1] == 8
    more = next(eval_batches(source, batch_size=4, **SETTINGS, max_boxes=2**31 - 1))
    assert more.boxes.shape == batch.boxes.shape
    assert not caplog.records
    file_names = source.records.file_names
    file_names[file_names.index("103.png")] = "10\n3.png"
    cut = next(eval_batches(source, batch_size=4, **SETTINGS, max_boxes=2))
    assert cut.boxes.shape[1] == 2
    assert cut.valid.sum() < batch.valid.sum()
    np.testing.assert_array_equal(cut.boxes, batch.boxes[:, :2])
    # Images 3 and 7 have three objects.
    assert "cuts off 2 objects in 2 images" in caplog.text
    assert r"10\n3.png, has 3" in caplog.text


def test_five_hundred_objects_fit(coco):
    coco.add_image(1, size=(40, 60))
    for i in range(500):
        coco.add_box(1, i % 50, i // 50, 3, 4)
    source = CocoSource(*coco.write())
    batch = next(eval_batches(source, batch_size=1, **SETTINGS))
    assert batch.boxes.shape == (1, 504, 4)
    assert batch.valid.sum() == 500


def test_a_program_can_end_while_batches_are_prepared():
    """Threads that wait for the interpreter would keep it from shutting down."""
    code = """
from ipg_jax import data
source = data.DigitsSource("train", num_scenes=20)
batches = data.train_batches(source, batch_size=4, seed=0, image_size=(192, 192), levels=4)
next(batches)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True)
