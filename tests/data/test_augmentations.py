"""Each augmentation by itself: pixels and boxes move together, and values are those of a twin."""

import dataclasses
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from painted import CELL, PaintedSource, color, examples, find, images_of, make_example

from ipg_jax.data import (
    AUGMENTATIONS,
    ColorJitter,
    CopyPaste,
    Example,
    FlipVertical,
    GaussianBlur,
    GaussianNoise,
    Images,
    JpegCompression,
    Mosaic,
    Objects,
    RandomCrop,
    Rotate90,
    ScaleJitter,
    make_augmentations,
)
from ipg_jax.data.augmentations import at_final_size, mirror

IMAGES = images_of(PaintedSource())
seeds = st.integers(0, 2**32)

REQUIRED = {"random_crop": {"size": (16, 20)}}
"""Options that have no default."""


def example_of_image(index: int) -> Example:
    example = IMAGES.load(index)
    assert example is not None
    return example


def assert_same(one: Example, other: Example) -> None:
    np.testing.assert_array_equal(one.image, other.image)
    for field in dataclasses.fields(Objects):
        np.testing.assert_array_equal(
            getattr(one.objects, field.name), getattr(other.objects, field.name)
        )
    assert one.size == other.size


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(examples(), seeds)
def test_what_holds_for_all(name, example, seed):
    augmentation = AUGMENTATIONS[name](probability=1.0, **REQUIRED.get(name, {}))
    before = example.image.copy()
    found, again = (augmentation(example, np.random.default_rng(seed), IMAGES) for _ in range(2))
    assert_same(found, again)
    np.testing.assert_array_equal(example.image, before)
    assert found.image.dtype == np.uint8
    height, width, channels = found.image.shape
    assert channels == 3
    assert min(height, width, *found.size) >= 1
    boxes = found.objects.boxes
    assert boxes.dtype == np.float32
    assert (boxes >= 0).all()
    assert (boxes <= [width, height, width, height]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    assert (found.objects.area > 0).all()
    assert len(boxes) <= augmentation.objects_at_most(len(example.objects.boxes), 4)
    if name not in ("mosaic", "copy_paste"):  # which bring labels that the example has, too
        ignored = example.objects.labels[example.objects.ignore]
        assert found.objects.ignore[np.isin(found.objects.labels, ignored)].all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_probability(name):
    example = example_of_image(4)
    never = AUGMENTATIONS[name](probability=0.0, **REQUIRED.get(name, {}))
    assert never(example, np.random.default_rng(0), IMAGES) is example


def assert_each_object_is_at_its_box(example: Example, count: int) -> None:
    boxes = dict(zip(example.objects.labels.tolist(), example.objects.boxes, strict=True))
    for label in range(count):
        there = find(example.image, color(0, label))
        if label in boxes:
            np.testing.assert_array_equal(there, boxes[label])
        else:
            assert there is None


@pytest.mark.parametrize("change", [FlipVertical(probability=1.0), Rotate90(), None])
@given(examples(), seeds)
def test_flips_and_turns_move_boxes_with_pixels(change, example, seed):
    if change is None:
        moved = mirror(example)
    else:
        moved = change(example, np.random.default_rng(seed), IMAGES)
    assert_each_object_is_at_its_box(moved, len(example.objects.boxes))
    for name in ("labels", "ignore", "area"):
        np.testing.assert_array_equal(getattr(moved.objects, name), getattr(example.objects, name))
    assert moved.size == moved.image.shape[:2]


def test_values_by_hand():
    example = make_example(6, 9, [(2, 1, 5, 4)])._replace(size=(12, 27))
    np.testing.assert_array_equal(mirror(example).objects.boxes, [[9 - 5, 1, 9 - 2, 4]])
    flipped = FlipVertical(probability=1.0)(example, np.random.default_rng(0), IMAGES)
    np.testing.assert_array_equal(flipped.objects.boxes, [[2, 6 - 4, 5, 6 - 1]])
    turned = {}
    for seed in range(16):
        found = Rotate90()(example, np.random.default_rng(seed), IMAGES)
        turned[tuple(found.objects.boxes[0].tolist())] = found.size
    assert turned == {
        (2, 1, 5, 4): (12, 27),
        (1, 9 - 5, 4, 9 - 2): (27, 12),  # the right side is the top
        (9 - 5, 6 - 4, 9 - 2, 6 - 1): (12, 27),
        (6 - 4, 2, 6 - 1, 5): (27, 12),
    }


@given(examples(), seeds, st.integers(1, 40), st.integers(1, 40), st.sampled_from([0.0, 0.3, 1.0]))
def test_a_crop_keeps_what_is_in_its_window(example, seed, height, width, min_visible):
    crop = RandomCrop(size=(height, width), min_visible=min_visible)
    found = crop(example, np.random.default_rng(seed), IMAGES)
    assert_each_object_is_at_its_box(found, len(example.objects.boxes))
    whole = example.image.shape[:2]
    assert found.size == found.image.shape[:2]
    assert found.size == (min(height, whole[0]), min(width, whole[1]))
    share = (found.objects.area / example.objects.area[found.objects.labels]).astype(float)
    before = example.objects.boxes[found.objects.labels]
    pixels = np.prod(found.objects.boxes[:, 2:] - found.objects.boxes[:, :2], axis=1)
    of = np.prod(before[:, 2:] - before[:, :2], axis=1)
    np.testing.assert_allclose(share, pixels / of, rtol=1e-6)
    np.testing.assert_array_equal(
        found.objects.ignore,
        example.objects.ignore[found.objects.labels] | (pixels / of < min_visible),
    )


def test_what_a_crop_leaves_little_of_is_a_region_to_ignore():
    """Of objects of 12 x 12 beside one another, a window of 40 x 40 cuts some to less than half."""
    boxes = [(x, y, x + 12, y + 12) for x in range(0, 96, 16) for y in range(0, 96, 16)]
    example = make_example(96, 96, boxes)
    ignored = kept = 0
    for seed in range(10):
        crop = RandomCrop(size=(40, 40), min_visible=0.5, tries=1)
        found = crop(example, np.random.default_rng(seed), IMAGES).objects
        pixels = np.prod(found.boxes[:, 2:] - found.boxes[:, :2], axis=1)
        np.testing.assert_array_equal(found.ignore, pixels < 0.5 * 144)
        ignored += found.ignore.sum()
        kept += (~found.ignore).sum()
    assert ignored > 10
    assert kept > 40


@given(examples(), seeds)
def test_a_crop_holds_an_object_where_there_is_one(example, seed):
    assume((~example.objects.ignore).any())
    found = RandomCrop(size=(CELL, CELL))(example, np.random.default_rng(seed), IMAGES).objects
    assert (found.area == example.objects.area[found.labels])[~found.ignore].any()


def test_more_tries_cut_fewer_objects():
    boxes = [(x, y, x + 12, y + 12) for x in range(0, 96, 16) for y in range(0, 96, 16)]
    example = make_example(96, 96, boxes)

    def cut_objects(tries: int) -> float:
        counts = []
        for seed in range(20):
            crop = RandomCrop(size=(32, 32), tries=tries)
            found = crop(example, np.random.default_rng(seed), IMAGES).objects.boxes
            counts.append(((found[:, 2:] - found[:, :2]) < 12).any(axis=1).sum())
        return float(np.mean(counts))

    assert cut_objects(30) < 0.5 * cut_objects(1)


def test_crops_by_class_show_the_rare_among_many():
    """One object of class 1 far from 24 of class 0: half of the windows are around it."""
    many = [(x, y, x + 4, y + 4) for x in range(0, 40, 8) for y in range(0, 40, 8)][:24]
    example = make_example(100, 100, [*many, (90, 90, 96, 96)])
    labels = np.array([0] * 24 + [1], example.objects.labels.dtype)
    example = example._replace(objects=dataclasses.replace(example.objects, labels=labels))

    def shown(by_class: bool) -> int:
        crop = RandomCrop(size=(20, 20), by_class=by_class, tries=1)
        crops = (crop(example, np.random.default_rng(seed), IMAGES) for seed in range(60))
        return sum(1 in found.objects.labels for found in crops)

    assert shown(False) < 10
    assert 20 <= shown(True) <= 40


def test_crops_elsewhere_than_at_objects_and_of_objects_larger_than_they():
    corner = make_example(100, 100, [(0, 0, 4, 4)])
    anywhere = [
        len(
            RandomCrop(size=(20, 20), around_object=share)(
                corner, np.random.default_rng(seed), IMAGES
            ).objects.boxes
        )
        for share in (0.0, 1.0)
        for seed in range(20)
    ]
    assert sum(anywhere[:20]) < 10
    assert sum(anywhere[20:]) == 20
    large = make_example(100, 100, [(10, 10, 90, 90)])
    for seed in range(20):
        found = RandomCrop(size=(20, 30))(large, np.random.default_rng(seed), IMAGES)
        np.testing.assert_array_equal(found.objects.boxes, [[0, 0, 30, 20]])


def test_a_crop_is_in_pixels_of_the_network_input():
    """A window of 8 x 12 of what is seen at half its size is one of 16 x 24 of the image."""
    example = make_example(40, 60, [(5, 5, 9, 9)])._replace(size=(20, 30))
    found = RandomCrop(size=(8, 12))(example, np.random.default_rng(0), IMAGES)
    assert found.image.shape == (16, 24, 3)
    assert found.size == (8, 12)


@given(st.integers(8, 60), st.integers(8, 60), st.data(), st.floats(0.3, 3.0))
def test_another_scale_moves_boxes_with_pixels(height, width, data, factor):
    x0, y0 = data.draw(st.integers(0, width - 4)), data.draw(st.integers(0, height - 4))
    x1, y1 = data.draw(st.integers(x0 + 4, width)), data.draw(st.integers(y0 + 4, height))
    example = make_example(height, width, [(x0, y0, x1, y1)])
    jitter = ScaleJitter(factors=(factor, factor))
    found = jitter(example, np.random.default_rng(0), IMAGES)
    assert found.size == (max(round(height * factor), 1), max(round(width * factor), 1))
    assert found.image is example.image
    resized = at_final_size(found)
    assert resized.image.shape[:2] == resized.size
    ys, xs = np.nonzero(resized.image[..., 0] > 100)
    there = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(resized.objects.boxes[0], there, atol=1)
    ratio = np.prod(resized.size) / (height * width)
    np.testing.assert_allclose(resized.objects.area, example.objects.area * ratio, rtol=1e-5)


def test_scales_are_drawn_from_their_range():
    example = make_example(100, 100, [])
    rng = np.random.default_rng(0)
    sides = [ScaleJitter()(example, rng, IMAGES).size[0] for _ in range(200)]
    assert 10 <= min(sides) < 25
    assert 185 < max(sides) <= 200
    assert abs(np.mean(sides) - 105) < 10


@given(seeds)
def test_a_mosaic_shows_four_images_where_their_objects_are(seed):
    example = example_of_image(4)
    found = Mosaic(factors=(1.0, 1.0), min_visible=0.0)(
        example, np.random.default_rng(seed), IMAGES
    )
    assert found.image.shape[:2] == found.size == example.size
    boxes = [tuple(box) for box in found.objects.boxes.astype(int).tolist()]
    for label, (x0, y0, x1, y1) in zip(found.objects.labels, boxes, strict=True):
        inside = found.image[y0:y1, x0:x1].reshape(-1, 3)
        assert (inside == inside[0]).all()
        assert tuple(inside[0][:2]) == tuple(color(0, int(label))[:2])
    covered = np.zeros(found.size, bool)
    for x0, y0, x1, y1 in boxes:
        covered[y0:y1, x0:x1] = True
    np.testing.assert_array_equal(covered, found.image[..., 0] == 200)


def test_a_mosaic_has_its_point_in_the_middle_and_grey_where_nothing_is():
    """A white image of 40 x 60 and three blue ones, of which 12 x 18 is left of each."""

    def plain(color):
        image = np.full((40, 60, 3), color, np.uint8)
        return Example(image, make_example(1, 1, []).objects, (40, 60))

    points = set()
    for seed in range(10):
        found = Mosaic(factors=(0.3, 0.3))(
            plain([255, 255, 255]), np.random.default_rng(seed), drawing(plain([0, 0, 255]))
        )
        left, top, x, y = find(found.image, [255, 255, 255])
        assert 10 <= y <= 30
        assert 15 <= x <= 45
        assert (left, top) == (max(x - 18, 0), max(y - 12, 0))
        want = [left, top, min(x + 18, 60), min(y + 12, 40)]
        grey = (found.image == (124, 116, 104)).all(axis=2)
        ys, xs = np.nonzero(~grey)
        np.testing.assert_array_equal([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], want)
        assert (~grey).sum() == (want[2] - left) * (want[3] - top)
        points.add((y, x))
    assert len(points) > 5


@given(examples(), seeds)
def test_what_is_pasted_is_at_its_box_and_covers_little(example, seed):
    paste = CopyPaste(
        probability=1.0, factors=(1.0, 1.0), border=0.0, max_cover=0.25, max_objects=4
    )
    background = np.full_like(example.image, 7)
    example = example._replace(image=background)
    found = paste(example, np.random.default_rng(seed), IMAGES)
    assert (background == 7).all()
    count = len(example.objects.boxes)
    for name in ("boxes", "labels", "ignore", "area"):
        np.testing.assert_array_equal(
            getattr(found.objects, name)[:count], getattr(example.objects, name)
        )
    changed = (found.image != 7).any(axis=2)
    union = np.zeros_like(changed)
    for label, box in zip(
        found.objects.labels[count:], found.objects.boxes[count:].astype(int), strict=True
    ):
        x0, y0, x1, y1 = box
        union[y0:y1, x0:x1] = True
        colors = found.image[y0:y1, x0:x1].reshape(-1, 3)
        whole = (colors[:, :2] == color(0, int(label))[:2]).all(axis=1)
        assert whole.mean() >= 0.75  # the rest is under what was pasted later
    np.testing.assert_array_equal(changed, union)
    assert not found.objects.ignore[count:].any()
    for x0, y0, x1, y1 in example.objects.boxes.astype(int):
        assert changed[y0:y1, x0:x1].mean() <= 0.25


def test_all_that_is_pasted_together_covers_little():
    """Objects of 6 x 6: at most four of them fit into a tenth of one of 40 x 40."""
    donor = make_example(20, 20, [(4, 4, 10, 10)])
    large = make_example(60, 60, [(10, 10, 50, 50)])
    paste = CopyPaste(
        probability=1.0, factors=(1.0, 1.0), border=0.0, max_objects=40, max_cover=0.1, tries=40
    )
    counts = []
    for seed in range(10):
        found = paste(large, np.random.default_rng(seed), drawing(donor))
        covered = np.zeros((60, 60), int)
        for x0, y0, x1, y1 in found.objects.boxes[1:].astype(int):
            covered[y0:y1, x0:x1] += 1
        assert covered[10:50, 10:50].sum() <= 0.1 * 1600
        counts.append(len(found.objects.boxes) - 1)
    assert max(counts) > 10


def drawing(example: Example):
    """The handle of a data set that has this image alone."""
    source = PaintedSource(2)
    source.load_image = lambda index: example.image
    source.records = dataclasses.replace(
        source.records,
        image_ids=[0],
        file_names=["the only one"],
        sizes=np.array([example.image.shape[:2]], np.int32),
        offsets=np.array([0, len(example.objects.boxes)]),
        **dataclasses.asdict(example.objects),
    )
    return Images(source, lambda size: example.size)


def test_the_border_of_what_is_pasted_fades():
    """An object of 200 on 0 in a picture of 100: its border of 4 pixels goes from 0 to 100."""
    source = PaintedSource(2)  # of its images the second one alone has an object
    target = Example(np.full((40, 60, 3), 100, np.uint8), make_example(1, 1, []).objects, (40, 60))
    paste = CopyPaste(probability=1.0, factors=(1.0, 1.0), border=4.0, max_objects=1)
    pasted = 0
    for seed in range(8):
        found = paste(target, np.random.default_rng(seed), images_of(source))
        for x0, y0, x1, y1 in found.objects.boxes.astype(int):
            pasted += 1
            assert (found.image[y0:y1, x0:x1, 0] == 200).all()
            row = found.image[(y0 + y1) // 2, x1 : x1 + 4, 0].astype(float)
            # The centres of pixels are 0.5, 1.5, ... from the box, of 4 pixels in which it fades.
            np.testing.assert_allclose(
                row, (100 * np.array([0.5, 1.5, 2.5, 3.5]) / 4)[: len(row)], atol=0.5
            )
            far = np.ones((40, 60), bool)
            far[max(y0 - 4, 0) : y1 + 4, max(x0 - 4, 0) : x1 + 4] = False
            assert (found.image[far] == 100).all()
    assert pasted


def test_objects_are_pasted_in_the_scale_of_the_image():
    """One of 6 x 4 in an image seen at half its size, into one seen at its own: 3 x 2."""
    donor = make_example(30, 30, [(10, 10, 16, 14)])._replace(size=(15, 15))
    target = make_example(50, 50, [])
    paste = CopyPaste(probability=1.0, factors=(1.0, 1.0), border=0.0, max_objects=1)
    found = paste(target, np.random.default_rng(0), drawing(donor))
    ((x0, y0, x1, y1),) = found.objects.boxes
    np.testing.assert_allclose([x1 - x0, y1 - y0], [3, 2], rtol=1e-5)
    np.testing.assert_allclose(found.objects.area, 12 / 4, rtol=1e-5)


@pytest.mark.parametrize(
    ("boxes", "ignore", "why"),
    [
        ([(0, 0, 40, 40)], (), "too large"),
        ([(0, 0, 8, 8)], (0,), "ignored"),
        ([(0, 0, 8, 8), (4, 4, 12, 12)], (), "each brings a quarter of the other"),
        ([], (), "none"),
    ],
)
def test_what_is_not_pasted(boxes, ignore, why):
    example = make_example(60, 60, boxes, ignore)
    paste = CopyPaste(probability=1.0, same_image=True)
    assert paste(example, np.random.default_rng(0), IMAGES) is example, why


def test_objects_of_the_image_itself_are_pasted():
    paste = CopyPaste(probability=1.0, same_image=True)
    # The second is too large, and the first brings a hundredth of it along.
    example = make_example(120, 120, [(0, 0, 8, 8), (0, 0, 80, 80)])
    found = [paste(example, np.random.default_rng(seed), IMAGES).objects for seed in range(5)]
    assert max(len(objects.boxes) for objects in found) > 2
    for objects in found:
        assert set(objects.labels[2:]) <= {0}


def test_few_pairs_of_many_objects_are_in_memory_at_a_time():
    """All 3001 x 3001 in float32 would be 36 MB, and the corners and sides between them more."""
    y, x = np.divmod(np.arange(1501) * 8, 320)
    corners = np.stack([x, 8 * y], axis=1)
    boxes = np.concatenate([corners, corners + 4], axis=1).repeat(2, axis=0)[:-1]
    objects = Objects(  # of which the last alone is not there twice
        boxes.astype(np.float32),
        np.arange(3001, dtype=np.int32),
        np.zeros(3001, bool),
        np.full(3001, 16, np.float32),
    )
    example = Example(np.zeros((320, 640, 3), np.uint8), objects, (320, 640))
    paste = CopyPaste(probability=1.0, same_image=True, factors=(1.0, 1.0), border=0.0, tries=1000)
    tracemalloc.start()
    found = paste(example, np.random.default_rng(0), IMAGES).objects.labels[3001:]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found)
    assert set(found) == {3000}
    assert peak < 60e6


def colors(image: np.ndarray, options: dict[str, float], factors: np.ndarray) -> np.ndarray:
    """The slow twin of `ColorJitter` for the four numbers that it draws, from -1 to 1."""
    luma = np.array([0.299, 0.587, 0.114])
    brightness, contrast, saturation = (
        1 + options.get(name, 0.0) * factor
        for name, factor in zip(("brightness", "contrast", "saturation"), factors, strict=False)
    )
    angle = 2 * np.pi * options.get("hue", 0.0) * factors[3]
    yiq = np.array([luma, [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])
    out = np.empty(image.shape)
    mean = brightness * (image.astype(float) @ luma).mean()
    for place in np.ndindex(image.shape[:2]):
        value = brightness * image[place].astype(float)
        value = mean + contrast * (value - mean)
        grey = value @ luma
        value = grey + saturation * (value - grey)
        y, i, q = yiq @ value
        i, q = np.cos(angle) * i - np.sin(angle) * q, np.sin(angle) * i + np.cos(angle) * q
        out[place] = np.linalg.solve(yiq, [y, i, q])
    return np.clip(out, 0, 255)


ALL = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
NONE = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


@pytest.mark.parametrize(
    "options",
    [{"brightness": 0.5}, {"contrast": 0.9}, {"saturation": 1.0}, {"hue": 0.5}, {}, "all"],
    ids=str,
)
def test_colors(options):
    options = (
        {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.1}
        if options == "all"
        else options
    )
    image = np.random.default_rng(1).integers(0, 256, (9, 11, 3), np.uint8)
    example = Example(image, make_example(1, 1, []).objects, (9, 11))
    for seed in range(5):
        rng = np.random.default_rng(seed)
        rng.random()  # whether it is applied
        factors = rng.uniform(-1, 1, 4)
        want = colors(image, options, factors)
        found = ColorJitter(**NONE | options)(example, np.random.default_rng(seed), IMAGES)
        np.testing.assert_allclose(found.image, want, atol=1)
        assert found.objects is example.objects
    if not options:
        np.testing.assert_array_equal(found.image, image)


def test_a_turn_of_hue_keeps_greys():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    example = Example(image, make_example(1, 1, []).objects, (16, 16))
    found = ColorJitter(**NONE | {"hue": 0.5})(example, np.random.default_rng(0), IMAGES)
    np.testing.assert_allclose(found.image, image, atol=1)


def noise_image(side: int = 64) -> Example:
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return Example(image, make_example(1, 1, []).objects, (side, side))


def test_a_blur_keeps_the_mean_and_takes_the_detail():
    example = noise_image()
    image = GaussianBlur(probability=1.0, sigma=(2.0, 2.0))(
        example, np.random.default_rng(0), IMAGES
    ).image
    assert abs(image.mean() - example.image.mean()) < 1.5
    # White noise through a Gaussian of sigma 2 keeps 1 / (2 sigma sqrt(pi)) of its deviation.
    inner = image[8:-8, 8:-8].std() / example.image.std()
    assert inner == pytest.approx(1 / (4 * np.sqrt(np.pi)), rel=0.15)
    none = GaussianBlur(probability=1.0, sigma=(0.0, 0.0))
    np.testing.assert_array_equal(
        none(example, np.random.default_rng(0), IMAGES).image, example.image
    )


def test_noise_has_its_deviation():
    grey = noise_image()._replace(image=np.full((64, 64, 3), 128, np.uint8))
    noise = GaussianNoise(probability=1.0, sigma=(8.0, 8.0))
    image = noise(grey, np.random.default_rng(0), IMAGES).image.astype(float)
    assert image.mean() == pytest.approx(128, abs=0.3)
    assert image.std() == pytest.approx(8, rel=0.05)
    white = grey._replace(image=np.full((64, 64, 3), 255, np.uint8))
    assert noise(white, np.random.default_rng(0), IMAGES).image.min() > 200  # clipped, not wrapped


def test_a_worse_jpeg_is_further_from_the_image():
    y, x = np.mgrid[:64, :64]
    smooth = np.stack([2 * y + x, 128 + x, 255 - y], axis=2).astype(np.uint8)
    example = noise_image()._replace(image=smooth)
    errors = [
        np.abs(
            JpegCompression(probability=1.0, quality=(quality, quality))(
                example, np.random.default_rng(0), IMAGES
            ).image.astype(float)
            - smooth
        ).mean()
        for quality in (95, 50, 5)
    ]
    assert errors[0] < 1.5
    assert errors == sorted(errors)
    assert errors[2] > 2 * errors[0]


def test_entries_of_the_config():
    found = make_augmentations(
        [
            "flip_vertical",
            ["random_crop", {"size": [256, 320], "tries": 5}],
            ("jpeg_compression", {}),
        ]
    )
    assert found == (
        FlipVertical(),
        RandomCrop(size=(256, 320), tries=5),
        JpegCompression(),
    )
    assert found[0].probability == 0.5


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("flip_diagonal", "has 'flip_diagonal': known are color_jitter, copy_paste, "),
        (("mosaic", 3), r"has \('mosaic', 3\)"),
        ({"scale": 2}, "an entry is a name, or a pair"),
        (
            ("mosaic", {"scale": 2}),
            "mosaic: there is no option 'scale': there are probability",
        ),
        ("random_crop", r"random_crop: size is not given: it is a pair \(height, width\)"),
        (("random_crop", {"size": 64}), r"random_crop: size is a pair \(height, .*, not 64"),
        (("random_crop", {"size": (64, 0)}), r"random_crop: size is .*, not \(64, 0\)"),
        (("random_crop", {"size": (1, 2, 3)}), "random_crop: size is "),
        (("scale_jitter", {"factors": (2.0, 0.1)}), "scale_jitter: factors is a pair"),
        (("scale_jitter", {"factors": (0.0, 0.1)}), "factors from 0.01 to 100, not"),
        (("flip_vertical", {"probability": 1.5}), "probability is a number from 0 to 1, not 1.5"),
        (("color_jitter", {"hue": 0.6}), "color_jitter: hue is a number from 0 to 0.5, not 0.6"),
        (("copy_paste", {"same_image": 1}), "copy_paste: same_image is True or False, not 1"),
        (("copy_paste", {"max_objects": 0}), "max_objects is a whole number from 1 to 1000, not 0"),
        (("jpeg_compression", {"quality": (0, 200)}), "whole numbers from 1 to 95, not"),
        (("gaussian_blur", {"sigma": float("nan")}), "gaussian_blur: sigma is a pair"),
    ],
)
def test_wrong_entries_are_refused_with_what_is_allowed(entry, message):
    with pytest.raises(ValueError, match=f"^config.data.augmentations.*{message}"):
        make_augmentations([entry])
