"""Batches of augmented images: their shapes, their order, and that they are repeatable."""

import dataclasses
from collections import Counter
from itertools import islice

import jax
import numpy as np
import pytest
from made_files import random_image
from painted import PaintedSource, color

from ipg_jax.data import (
    ColorJitter,
    CopyPaste,
    FlipVertical,
    GaussianNoise,
    JpegCompression,
    Mosaic,
    RandomCrop,
    Rotate90,
    ScaleJitter,
    global_batch_records,
    train_batches,
    train_example,
)

SETTINGS = {"batch_size": 4, "seed": 3, "image_size": (32, 64), "levels": 3, "pad_multiple": 16}
MIXED = (Mosaic(probability=0.5), CopyPaste())
ALL = (
    *MIXED,
    ScaleJitter(factors=(0.5, 2.0)),
    RandomCrop(size=(40, 48)),
    FlipVertical(),
    Rotate90(),
    ColorJitter(),
    GaussianNoise(),
    JpegCompression(),
)


def first(count: int, **changes):
    """The first batches."""
    with_closing = train_batches(PaintedSource(), **SETTINGS | changes)
    try:
        return list(islice(with_closing, count))
    finally:
        with_closing.close()


def assert_equal(one, other, rows=slice(None)):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        for x, y in zip(a, b, strict=True) if field.name == "pyramid" else [(a, b)]:
            np.testing.assert_array_equal(x, y[rows], err_msg=field.name)


SIZES = ((16, 32), (32, 48), (32, 32))


def test_batches_are_alike_after_a_resume_and_on_other_hosts():
    whole = first(6, augmentations=ALL, train_sizes=SIZES)
    plain = first(6, augmentations=(RandomCrop(size=(40, 48)),), train_sizes=SIZES)
    for one, other in zip(whole, plain, strict=True):
        np.testing.assert_array_equal(one.image_id, other.image_id)
        assert (one.pyramid[0] != other.pyramid[0]).any()
    resumed = first(3, augmentations=ALL, train_sizes=SIZES, start_step=3)
    for want, got in zip(whole[3:], resumed, strict=True):
        assert_equal(got, want)
    rows = [1, 3]
    for want, got in zip(
        whole, first(6, augmentations=ALL, train_sizes=SIZES, rows=rows), strict=True
    ):
        assert_equal(got, want, rows)


@pytest.mark.parametrize("augmentations", [(RandomCrop(size=(40, 48)),), ALL], ids=["crop", "all"])
def test_crops_are_batches_of_one_shape(augmentations):
    for batch in first(8, augmentations=augmentations):
        assert batch.pyramid[0].shape == (4, 48, 48, 3)  # up to multiples of 16
        assert (batch.image_size <= [40, 48]).all()
        for row, (height, width) in enumerate(batch.image_size):
            assert not batch.pyramid[0][row, height:].any()
            assert not batch.pyramid[0][row, :, width:].any()
            boxes = batch.boxes[row, batch.valid[row]]
            assert (boxes >= 0).all()
            assert (boxes <= np.array([width, height, width, height]) + 1e-4).all()


def test_the_last_of_several_crops_decides():
    crops = RandomCrop(size=(48, 64)), RandomCrop(size=(16, 32))
    assert first(1, augmentations=crops)[0].pyramid[0].shape == (4, 16, 32, 3)


@pytest.mark.parametrize(
    "augmentations",
    [
        (ScaleJitter(factors=(0.8, 2.0)),),
        (Rotate90(), FlipVertical()),
        (ScaleJitter(factors=(1.0, 1.5)), RandomCrop(size=(40, 48))),
        (Mosaic(factors=(1.0, 1.0)), CopyPaste(probability=1.0, factors=(1.0, 1.0), max_cover=0.0)),
    ],
    ids=["scale", "turn", "crop", "mix"],
)
def test_under_the_centre_of_each_box_is_its_object(augmentations):
    checked = 0
    for batch in first(8, augmentations=augmentations):
        for row in range(4):
            for box, label in zip(
                batch.boxes[row, batch.valid[row]], batch.labels[row, batch.valid[row]], strict=True
            ):
                if min(box[2:] - box[:2]) < 3:
                    continue
                x, y = ((box[:2] + box[2:]) / 2).astype(int)
                got = batch.pyramid[0][row, y, x].astype(int)
                np.testing.assert_allclose(got[:2], color(0, int(label))[:2], atol=1)
                checked += 1
    assert checked > 20


def test_what_is_larger_than_the_batch_is_cut():
    source = PaintedSource()
    for batch in first(8, augmentations=(ScaleJitter(factors=(2.0, 2.0)),)):
        shape = batch.pyramid[0].shape[1:3]
        assert shape in ((32, 64), (64, 32))
        np.testing.assert_array_equal(batch.image_size, [shape] * 4)
        for scale, index in zip(batch.scale, batch.image_id.tolist(), strict=True):
            short, long = sorted(source.size(index))
            # Windows are whole pixels of the image, some 32 / 2.6 of them at least.
            np.testing.assert_allclose(scale, 2 * min(32 / short, 64 / long), rtol=0.05)


def test_the_shape_of_a_batch_is_a_function_of_seed_and_step():
    shapes = [batch.pyramid[0].shape[1:3] for batch in first(40, train_sizes=SIZES)]
    assert set(shapes) == {(16, 32), (32, 16), (32, 48), (48, 32), (32, 32)}
    later = [batch.pyramid[0].shape[1:3] for batch in first(5, train_sizes=SIZES, start_step=35)]
    assert later == shapes[35:]
    other = [batch.pyramid[0].shape[1:3] for batch in first(40, train_sizes=SIZES, seed=4)]
    assert other != shapes
    # Which images a batch has does not depend on the sizes, if they tell orientations apart.
    for one, two in zip(first(4, train_sizes=SIZES), first(4), strict=True):
        np.testing.assert_array_equal(one.image_id, two.image_id)


def test_each_shape_is_compiled_once():
    traced = []

    @jax.jit
    def step(pyramid):
        traced.append(pyramid[0].shape)
        return pyramid[0].astype("float32").mean()

    for batch in first(40, train_sizes=SIZES):
        step(batch.pyramid)
    assert len(traced) == len(set(traced)) == 5


def test_other_padding_changes_nothing_else():
    """It depends on how many devices divide the height."""
    more = first(4, augmentations=ALL, pad_multiple=32)
    for one, other in zip(first(4, augmentations=ALL), more, strict=True):
        assert one.pyramid[0].shape == (4, 48, 48, 3)
        assert other.pyramid[0].shape == (4, 64, 64, 3)
        np.testing.assert_array_equal(one.pyramid[0], other.pyramid[0][:, :48, :48])
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_one_square_size_has_one_bucket():
    for sizes in ((), ((48, 48),)):
        batches = first(4, image_size=(48, 48), train_sizes=sizes)
        assert {batch.pyramid[0].shape for batch in batches} == {(4, 48, 48, 3)}


def test_named_records_are_those_of_the_batch():
    for changes in ({"train_sizes": SIZES}, {"augmentations": ALL}):
        for step, batch in enumerate(first(5, **changes)):
            settings = {name: SETTINGS[name] for name in ("batch_size", "seed", "image_size")}
            named = global_batch_records(PaintedSource(), step, **settings, **changes)
            assert [number for number, _ in named] == batch.image_id.tolist()


def test_there_are_rows_for_all_objects(caplog):
    assert first(1)[0].boxes.shape[1] == 8  # four at most in an image
    assert first(1, augmentations=MIXED)[0].boxes.shape[1] == 24  # 4 x 4 + 3
    assert not caplog.records
    assert first(1, augmentations=MIXED, max_boxes=12)[0].boxes.shape[1] == 12
    assert "images of up to 19 objects, of which config.data.max_boxes=12 keeps" in caplog.text


def test_unreadable_images_are_blank_and_not_mixed_into_others():
    source = PaintedSource()
    load = source.load_image

    def load_image(index):
        if index % 2:
            raise OSError("gone")
        return load(index)

    source.load_image = load_image
    batches = train_batches(source, **SETTINGS, augmentations=ALL)
    blank = 0
    for batch in islice(batches, 6):
        np.testing.assert_array_equal(batch.weight, batch.image_id % 2 == 0)
        lost = batch.weight == 0
        blank += lost.sum()
        assert not batch.pyramid[0][lost].any()
        assert not batch.valid[lost].any()
        assert (batch.image_size <= [40, 48]).all()
    batches.close()
    assert blank
    source.load_image = lambda index: (_ for _ in ()).throw(OSError("all gone"))
    batches = train_batches(source, **SETTINGS, augmentations=(Mosaic(), CopyPaste()))
    assert not next(batches).weight.any()
    batches.close()


def test_an_augmentation_that_fails_ends_the_run_with_the_name_of_the_image():
    class Fails(FlipVertical):
        def apply(self, example, rng, images):
            raise KeyError("broken")

    with pytest.raises(RuntimeError, match=r"^painted: image \d+: KeyError: 'broken'"):
        first(1, augmentations=(Fails(probability=1.0),))


def test_an_image_is_changed_anew_in_each_epoch():
    settings = {"image_size": (32, 64), "augmentations": (ScaleJitter(factors=(0.2, 1.0)),)}
    seen, sizes = Counter(), set()
    for batch in first(12, **settings):  # of four of twelve images
        for row, index in enumerate(batch.image_id.tolist()):
            example = train_example(PaintedSource(), index, seed=3, epoch=seen[index], **settings)
            np.testing.assert_array_equal(batch.image_size[row], example.size)
            sizes.add((index, example.size))
            seen[index] += 1
    assert min(seen.values()) >= 3
    assert len(sizes) > 30


def test_an_example_is_what_the_batch_has():
    settings = {"seed": 3, "image_size": (32, 64), "augmentations": ALL}
    batch = first(1, augmentations=ALL)[0]
    for row, index in enumerate(batch.image_id.tolist()):
        example = train_example(PaintedSource(), index, **settings)
        height, width = batch.image_size[row]
        assert example.size == (height, width)
        np.testing.assert_array_equal(example.image, batch.pyramid[0][row, :height, :width])
        np.testing.assert_allclose(
            example.objects.boxes, batch.boxes[row, batch.valid[row]], atol=1e-4
        )
        np.testing.assert_array_equal(example.objects.labels, batch.labels[row, batch.valid[row]])
    source = PaintedSource()
    source.load_image = lambda index: random_image(*source.size(index))[1:]
    with pytest.raises(TypeError, match="the source made a uint8 image of"):
        train_example(source, 0, **settings)
