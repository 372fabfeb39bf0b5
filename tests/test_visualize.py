"""Drawn pictures, checked pixel by pixel where a pixel's colour can be foretold."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ipg_jax.visualize import (
    add_legend,
    class_color,
    contact_sheet,
    draw_activation,
    draw_boxes,
    save_image,
    side_by_side,
)

NAMES = ("cat", "dog", "a class of a very long name")
GREY = 100


def grey(height=200, width=300):
    return np.full((height, width, 3), GREY, np.uint8)


def draw(image, *rows, scores=None, **options):
    """`draw_boxes` from rows `(box, label)`."""
    return draw_boxes(
        image,
        np.array([row[0] for row in rows], np.float32).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int32),
        NAMES,
        None if scores is None else np.array(scores, np.float32),
        **options,
    )


def changed(picture):
    """First and last rows and columns that were drawn on: top, left, bottom, right."""
    rows, columns = np.nonzero((picture != GREY).any(axis=2))
    return rows.min(), columns.min(), rows.max(), columns.max()


def test_frame_surrounds_the_box_and_leaves_its_inside_alone():
    picture = draw(grey(), ([100, 80, 200, 160], 1))
    color = class_color(1)
    for y, x in [(120, 99), (120, 200), (160, 150)]:  # left, right, bottom: pixels just outside
        assert tuple(picture[y, x]) == color
    assert (picture[80:160, 100:200] == GREY).all()


def test_regions_to_ignore_are_grey_crossed_out_and_of_no_class():
    boxes, labels = np.float32([[50, 50, 150, 150], [200, 20, 240, 60]]), np.int32([len(NAMES), 1])
    picture = draw_boxes(grey(), boxes, labels, NAMES, ignore=np.array([True, False]))
    for y, x in [(100, 49), (100, 150), (100, 100), (75, 75), (75, 124)]:  # frame and diagonals
        assert (picture[y, x] == 160).all()
    assert (picture[60:90, 95:105] == GREY).all()
    assert tuple(picture[40, 199]) == class_color(1)
    assert (draw(grey(), (boxes[1], 1))[:, 160:] == picture[:, 160:]).all()


def test_small_object_stays_visible():
    """Its line is thinner than that of a large one would be, or as wide as one asks for."""
    box = ([500, 500, 504, 504], 0)
    picture = draw(grey(1000, 1000), box)
    assert (picture[500:504, 500:504] == GREY).all()
    assert (picture[500:504, 499] == class_color(0)).all()
    assert (picture[500:504, 498] == GREY).all()
    wide = draw(grey(1000, 1000), box, line_width=4)
    assert (wide[500:504, 500:504] == GREY).all()
    assert (wide[500:504, 496:500] == class_color(0)).all()


def test_lines_and_text_grow_with_the_picture():
    def frame_and_caption(side):
        picture = draw(grey(side, side), ([side // 2, side // 2, side // 2 + 100, side - 20], 0))
        left_frame = (picture[side * 3 // 4, : side // 2] != GREY).any(axis=1).sum()
        return left_frame, side // 2 - changed(picture)[0]

    small, large = frame_and_caption(400), frame_and_caption(2000)
    assert large[0] == 8
    assert small[0] == 2
    assert large[1] > 3 * small[1]


def test_caption_has_the_colour_of_its_class_and_text_on_it():
    picture = draw(grey(), ([50, 50, 150, 150], 0), scores=[0.5])
    caption = picture[: 50 - 1, :][(picture[: 50 - 1, :] != GREY).any(axis=2)]
    filled = (caption == class_color(0)).all(axis=1)
    assert 0.4 < filled.mean() < 0.95


@given(
    side=st.integers(8, 300),
    corner=st.tuples(st.floats(-50, 300), st.floats(-50, 300)),
    sides=st.tuples(st.floats(0, 400), st.floats(0, 400)),
    label=st.integers(0, 2),
)
def test_any_box_in_any_picture(side, corner, sides, label):
    image = grey(side, 2 * side)
    box = [*corner, corner[0] + sides[0], corner[1] + sides[1]]
    picture = draw(image, (box, label), scores=[0.99])
    assert picture.shape == image.shape
    assert (picture == class_color(label)).all(axis=2).any()
    assert (image == GREY).all()  # the argument is not drawn on


def ink(picture):
    """Pixels of the letters, which are neither of the grey nor of the class."""
    return ((picture != GREY).any(axis=2) & (picture != class_color(0)).any(axis=2)).sum()


@pytest.mark.parametrize("box", [[0, 0, 20, 20], [290, 0, 300, 20], [280, 180, 300, 200]])
def test_captions_are_moved_into_the_picture(box):
    middle = draw(grey(), ([140, 90, 160, 110], 0))
    assert ink(draw(grey(), (box, 0))) == ink(middle) > 0


def test_second_caption_takes_the_other_end_of_the_box():
    box = [20, 2, 280, 195]
    twice = draw(grey(), (box, 0), (box, 0))
    assert ink(twice) == 2 * ink(draw(grey(), (box, 0)))
    assert ink(twice[:100]) == ink(twice[100:])


def test_best_score_is_drawn_on_top():
    same = [50, 50, 150, 150]
    picture = draw(grey(), (same, 0), (same, 1), scores=[0.2, 0.9])
    assert tuple(picture[100, 49]) == class_color(1)
    assert tuple(draw(grey(), (same, 0), (same, 1))[100, 49]) == class_color(0)


def test_captions_never_cover_a_better_one():
    same = [20, 60, 280, 190]
    alone = draw(grey(), (same, 0))
    crowd = draw(grey(), (same, 0), *[(same, 1)] * 20)
    height = 60 - changed(alone)[0]
    caption = (slice(60 - height, 59), slice(19, 60))
    np.testing.assert_array_equal(crowd[caption], alone[caption])
    assert changed(crowd)[:2] == changed(alone)[:2]  # what finds no place is not drawn elsewhere


CROWD = [([x, y, x + 14, y + 16], 0) for y in range(40, 160, 20) for x in range(40, 260, 18)]
"""Cats of 14 x 16 pixels, four pixels apart, with no room between them for a caption."""


def test_captions_cover_no_object():
    picture = draw(grey(), *CROWD, scores=[0.5] * len(CROWD))
    for (x0, y0, x1, y1), _ in CROWD:
        assert (picture[y0:y1, x0:x1] != GREY).any(axis=2).mean() <= 0.1
    assert ink(picture[:40]) > 0  # those of the first row have room above them


def test_all_captions_on_request():
    everything = draw(grey(), *CROWD, scores=[0.5] * len(CROWD), captions="all")
    assert ink(everything) > 1.5 * ink(draw(grey(), *CROWD, scores=[0.5] * len(CROWD)))


def test_a_score_alone_where_a_name_has_no_room():
    # Between two walls of dogs, 40 pixels apart, there is room for "0.90", not for "a class of...".
    walls = [([x, y, x + 14, y + 16], 1) for y in range(0, 200, 20) for x in (116, 170)]
    small = ([143, 100, 157, 110], 2)
    pictures = {
        captions: draw(grey(), small, *walls, scores=[0.9, *[0.1] * len(walls)], captions=captions)
        for captions in ("auto", "scores", "none")
    }
    between = (slice(80, 130), slice(131, 169))
    np.testing.assert_array_equal(pictures["auto"][between], pictures["scores"][between])
    alone = {c: draw(grey(), small, scores=[0.9], captions=c) for c in ("auto", "scores")}
    assert ink_of(alone["auto"], 2) > ink_of(alone["scores"], 2) > 0
    assert ink_of(pictures["auto"][between], 2) > ink_of(pictures["none"][between], 2) == 0


def ink_of(picture, label):
    grey_or_class = (picture == GREY).all(axis=2) | (picture == class_color(label)).all(axis=2)
    return (~grey_or_class).sum()


def test_legend_names_colours_and_numbers():
    image = grey()
    found = add_legend(image, np.array([1, 0, 1]), NAMES)
    np.testing.assert_array_equal(found[:200], image)
    strip = found[200:]
    for label in (0, 1):
        assert (strip == class_color(label)).all(axis=2).sum() > 20
    assert not (strip == class_color(2)).all(axis=2).any()
    # Many classes take several lines, and nothing is cut off; none takes no strip.
    names = [f"class number {i}" for i in range(30)]
    many = add_legend(image, np.arange(30), names)[200:]
    assert all((many == class_color(i)).all(axis=2).any() for i in range(30))
    assert add_legend(image, np.zeros(0, int), NAMES).shape == image.shape


def test_no_boxes():
    np.testing.assert_array_equal(draw(grey()), grey())
    np.testing.assert_array_equal(draw(grey(), scores=[]), grey())


def test_colours_are_distinct():
    colors = np.array([class_color(label) for label in range(80)])
    assert len(np.unique(colors, axis=0)) == 80
    distances = [abs(a - b).max() for a, b in itertools.combinations(colors[:12], 2)]
    assert min(distances) > 50


def test_activation_is_the_root_mean_square_of_channels_cell_by_cell():
    feature = np.zeros((2, 3, 2), np.float32)
    feature[0, 1] = 3.0, -4.0  # 5 / sqrt(2): the largest, whatever the sign
    feature[1, 2] = 0.0, 2.5  # half of it
    picture = draw_activation(grey(20, 60), feature)
    assert picture.shape == (20, 60, 3)
    none, half, most = (
        np.round(0.4 * GREY + 0.6 * np.array(color))
        for color in [(0, 0, 60), (220, 60, 80), (255, 255, 190)]
    )
    np.testing.assert_array_equal(picture[:10, 20:40], np.broadcast_to(most, (10, 20, 3)))
    np.testing.assert_array_equal(picture[10:, 40:], np.broadcast_to(half, (10, 20, 3)))
    for cell in (picture[:, :20], picture[:10, 40:], picture[10:, :40]):
        np.testing.assert_array_equal(cell, np.broadcast_to(none, cell.shape))


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_constant_activation_shows_the_picture_alone(value: float):
    image = grey(12, 8)
    image[:6] += 50
    picture = draw_activation(image, jnp.full((3, 2, 4), value, jnp.bfloat16)).astype(int)
    assert np.unique(picture[:6] - picture[6:], axis=None).tolist() == [20]  # 0.4 of 50


def test_side_by_side():
    left, right = grey(20, 60), grey(50, 80) + np.uint8(50)
    picture = side_by_side(left, right)
    np.testing.assert_array_equal(picture[:20, :60], left)
    np.testing.assert_array_equal(picture[:, -80:], right)
    titled = side_by_side(left, right, titles=("prediction", "ground truth"))
    bar = titled.shape[0] - picture.shape[0]
    np.testing.assert_array_equal(titled[bar : bar + 20, :60], left)
    np.testing.assert_array_equal(titled[bar:, -80:], right)
    for title in (titled[:bar, :60], titled[:bar, -80:]):
        assert title.max() > 200  # letters


def test_contact_sheet_places_pictures_row_by_row():
    images = [np.full((10, 20, 3), 50 * i + 50, np.uint8) for i in range(3)]
    images[1] = images[1][:6, :15]
    sheet = contact_sheet(images, columns=2)
    assert sheet.shape == (10 + 2 + 10, 20 + 2 + 20, 3)
    np.testing.assert_array_equal(sheet[:10, :20], images[0])
    np.testing.assert_array_equal(sheet[:6, 22:37], images[1])
    np.testing.assert_array_equal(sheet[12:, :20], images[2])
    assert sheet[12:, 22:].max() < 50
    np.testing.assert_array_equal(contact_sheet(images[:1], columns=4), images[0])


def test_contact_sheet_with_titles():
    image = grey(40, 80)
    sheet = contact_sheet([image] * 3, columns=2, titles=["a", "b", "c"])
    bar = (sheet.shape[0] - 2) // 2 - 40
    for top, left in [(0, 0), (0, 82), (bar + 42, 0)]:
        assert sheet[top : top + bar, left : left + 80].max() > 200  # letters
        np.testing.assert_array_equal(sheet[top + bar :][:40, left : left + 80], image)
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([image] * 3, columns=2, titles=["a", "b"])


@pytest.mark.parametrize(("count", "columns"), [(0, 2), (1, 0)])
def test_contact_sheet_needs_pictures_and_columns(count, columns):
    with pytest.raises(ValueError, match="needs images and columns"):
        contact_sheet([grey()] * count, columns=columns)


def test_saved_picture_is_read_back_exactly(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (17, 23, 3), np.uint8)
    path = tmp_path / "samples" / "a.png"
    save_image(path, image)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        np.testing.assert_array_equal(np.array(picture), image)
