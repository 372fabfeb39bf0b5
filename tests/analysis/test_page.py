"""The page of a data set: one file, which needs nothing else."""

import tracemalloc

import numpy as np
import pytest
from listed_source import ListedSource, settings
from page_reader import Reader

from ipg_jax.analysis.charts import bar_chart
from ipg_jax.analysis.page import page, write_page
from ipg_jax.analysis.pictures import CROP_SIDE, MOST_UNREADABLE, Album, crop, readable
from ipg_jax.analysis.report import analyse
from ipg_jax.visualize import class_color


@pytest.fixture
def source():
    names = ("<cat>", "dog & co")
    objects = [((10, 10, 14, 15), 0), ((50, 20, 90, 80), 1), ((0, 0, 60, 30), 2, True)]
    return ListedSource(objects, [((60, 60, 63, 63), 0)], [], class_names=names)


def test_it_is_one_file_with_all_pictures(source, tmp_path):
    report = analyse(source, settings(), matched_images=0)
    write_page(tmp_path / "new" / "page.html", source, report)
    text = (tmp_path / "new" / "page.html").read_text()
    found = Reader(text)
    # Three smallest, the most crowded, two at random, and the crops: two cats and a dog.
    assert len(found.pixels()) == 3 + 1 + 2 + 2 + 1
    assert {image["title"] for image in found.images} == {"<0>.png", "<1>.png"}
    assert "<cat> 3x3" in found.text
    assert "<0>.png, 200 x 100 pixels, 3 objects" in found.text
    assert "to ignore" in found.text
    assert page(source, report) == text  # choices are the same every time


def test_images_that_cannot_be_read_are_left_out():
    objects = [((10, 10, 14, 15), 0)]
    some = ListedSource(objects, objects, unreadable=[0])
    found = Reader(page(some, analyse(some, settings(), matched_images=0)))
    assert {image["title"] for image in found.images} == {"<1>.png"}
    none = ListedSource(objects, [], unreadable=[0, 1])
    found = Reader(page(none, analyse(none, settings(), matched_images=0)))
    assert found.images == []
    assert "There is no such image, or it cannot be read." in found.text
    empty = ListedSource([])
    assert Reader(page(empty, analyse(empty, settings(), matched_images=0))).images == []


def test_the_smallest_come_first_and_two_of_an_image():
    one = [((20 * i, 0, 20 * i + 4 + i, 4), 0) for i in range(5)]
    source = ListedSource(one, [((0, 0, 30, 30), 1)])
    captions = [picture.caption for picture in Album(source).smallest(9)]
    assert captions == ["cat 4x4", "cat 5x4", "dog 30x30"]


def test_a_crop_shows_the_object_within_its_frame():
    image = np.zeros((100, 200, 3), np.uint8)
    image[40:60, 80:100] = 255
    picture = crop(image, np.array([80.0, 40, 100, 60]), 1)
    # 60 x 60 pixels of the image, enlarged by 144 / 60: the object is rows 48 to 95.
    assert picture.shape == (CROP_SIDE, CROP_SIDE, 3)
    assert (picture[48:96, 48:96] == 255).all()
    assert tuple(picture[47, 70]) == tuple(picture[96, 70]) == class_color(1)
    assert (picture[:40] == 0).all()
    # At the corner of the image, what is beyond it is grey.
    corner = crop(image, np.array([0.0, 0, 8, 8]), 0)
    assert (corner[:40, :40] == 128).all()
    assert (corner[110:, 110:] == 0).all()


def test_a_crop_of_a_large_object_takes_no_more_than_the_image():
    image = np.full((400, 600, 3), 255, np.uint8)  # 0.7 MB; the window is 1800 x 1800, 9.7 MB
    tracemalloc.start()
    picture = crop(image, np.array([0.0, 0, 600, 400]), 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3e6
    # The corner of the window is at (-600, -700), and 1800 pixels become 144: 12.5 are one.
    assert (picture[56:88, 48:96] == 255).all()
    frame = tuple(picture[55, 70])
    assert frame == tuple(picture[88, 70]) == tuple(picture[70, 47]) == class_color(0)
    for beyond in (picture[:53], picture[91:], picture[:, :45], picture[:, 99:]):
        assert (beyond == 128).all()


def test_images_that_cannot_be_read_are_tried_a_few_times_and_each_once():
    asked = []

    def load(index):
        asked.append(index)
        return None if index < 100 else np.zeros((1, 1, 3), np.uint8)

    def found(image, **limits):
        asked.clear()
        image = np.array(image, np.int64)
        return [row for row, *_ in readable(np.arange(len(image)), image, load, **limits)]

    assert found([7, 7, 100, 7, 100, 100, 101], limit=3, same_image=2) == [2, 4, 6]
    assert asked == [7, 100, 100, 101]
    assert found([100] * 5, limit=3) == [0, 1, 2]
    assert found([*range(50), 100], limit=1) == []
    assert asked == list(range(MOST_UNREADABLE))
    assert found([], limit=1) == []


def test_bars_are_as_long_as_their_numbers():
    chart = bar_chart(["a", "<b>"], [[1, 1], [4, 0]], ["2", "4"], ["in", "out"])
    assert "&lt;b&gt;" in chart
    widths = [float(part.split('"')[0]) for part in chart.split('width="')[2:]]
    legend, first, second, third, fourth = widths[:2], *widths[2:]
    assert legend == [12, 12]
    assert first == second == pytest.approx(third / 4, abs=0.06)
    assert fourth == 0
    assert "<svg" in bar_chart([], [], [])
