"""Random changes of training images."""

import dataclasses
from itertools import islice

import numpy as np
import pytest
from memory_source import MemorySource

from ipg_jax.data import AUGMENTATIONS, Example, Objects, train_batches
from ipg_jax.data.augment import augment, mirror


def make_example(height: int = 6, width: int = 9, boxes=((2, 1, 5, 4), (0, 0, 9, 6))) -> Example:
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    count = len(boxes)
    objects = Objects(
        boxes=boxes,
        labels=np.arange(count, dtype=np.int32),
        ignore=np.zeros(count, bool),
        area=np.ones(count, np.float32),
    )
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Example(image, objects)


FLIPS, DOES_NOT = 0, 2
"""Seeds whose first draws are 0.64 and 0.26."""


def test_mirroring_moves_boxes_with_pixels_and_back():
    example = make_example()
    flipped = mirror(example)
    np.testing.assert_array_equal(flipped.objects.boxes, [[4, 1, 7, 4], [0, 0, 9, 6]])
    np.testing.assert_array_equal(flipped.image[1:4, 4:7], example.image[1:4, 2:5][:, ::-1])
    again = mirror(flipped)
    np.testing.assert_array_equal(again.image, example.image)
    np.testing.assert_array_equal(again.objects.boxes, example.objects.boxes)
    assert mirror(make_example(boxes=())).objects.boxes.shape == (0, 4)


def test_a_vertical_flip_moves_boxes_with_pixels():
    example = make_example()
    flipped = AUGMENTATIONS["flip_vertical"](example, np.random.default_rng(FLIPS))
    np.testing.assert_array_equal(flipped.objects.boxes, [[2, 2, 5, 5], [0, 0, 9, 6]])
    np.testing.assert_array_equal(flipped.image[2:5, 2:5], example.image[1:4, 2:5][::-1])
    same = AUGMENTATIONS["flip_vertical"](example, np.random.default_rng(DOES_NOT))
    np.testing.assert_array_equal(same.image, example.image)


def test_an_augmentation_keeps_the_size(monkeypatch):
    monkeypatch.setitem(
        AUGMENTATIONS, "crop", lambda example, rng: example._replace(image=example.image[:2])
    )
    with pytest.raises(ValueError, match=r"'crop' turned an image of \(6, 9, 3\) into \(2, 9, 3\)"):
        augment(make_example(), ["crop"], np.random.default_rng(0))


def batches(augmentations, start_step: int = 0, rows=None):
    settings = {"batch_size": 4, "seed": 3, "image_size": (4, 6), "levels": 1, "flip": 0.0}
    source = MemorySource(12)
    return islice(
        train_batches(
            source, start_step=start_step, augmentations=augmentations, rows=rows, **settings
        ),
        4 - start_step,
    )


def test_batches_are_augmented_alike_after_a_resume_and_on_other_hosts():
    changed, count = 0, 0
    augmented = list(batches(("flip_vertical",)))
    for plain, batch in zip(batches(()), augmented, strict=True):
        for row in np.flatnonzero(plain.valid.any(axis=1)):
            height, valid = plain.image_size[row, 0], plain.valid[row]
            x0, y0, x1, y1 = plain.boxes[row, valid].T
            flipped = np.stack([x0, height - y1, x1, height - y0], axis=1)
            got = batch.boxes[row, valid]
            is_flipped = np.array_equal(got, flipped)
            assert is_flipped or np.array_equal(got, plain.boxes[row, valid])
            image = plain.pyramid[0][row, :height]
            want = image[::-1] if is_flipped else image
            if not np.array_equal(flipped, plain.boxes[row, valid]):
                np.testing.assert_array_equal(batch.pyramid[0][row, :height], want)
            changed, count = changed + is_flipped, count + 1
    assert 0 < changed < count
    for want, got in zip(augmented[2:], batches(("flip_vertical",), start_step=2), strict=True):
        np.testing.assert_array_equal(got.boxes, want.boxes)
        np.testing.assert_array_equal(got.pyramid[0], want.pyramid[0])
    for want, got in zip(augmented, batches(("flip_vertical",), rows=[1, 3]), strict=True):
        np.testing.assert_array_equal(got.boxes, want.boxes[[1, 3]])


def test_unknown_augmentations_are_refused_by_name():
    with pytest.raises(ValueError, match="'flip_diagonal': known are flip_vertical"):
        next(batches(("flip_diagonal",)))


def test_objects_stay_with_their_labels():
    example = make_example()
    flipped = AUGMENTATIONS["flip_vertical"](example, np.random.default_rng(FLIPS))
    for field in dataclasses.fields(Objects):
        if field.name != "boxes":
            np.testing.assert_array_equal(
                getattr(flipped.objects, field.name), getattr(example.objects, field.name)
            )
