"""The numbers of a small data set, worked out by hand, and their text."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from listed_source import RETINANET, ListedSource, match, settings

from ipg_jax import ops
from ipg_jax.analysis.objects import network_objects
from ipg_jax.analysis.proposal import propose
from ipg_jax.analysis.report import Spread, analyse
from ipg_jax.analysis.text import format_report, hints
from ipg_jax.images import make_geometry

numbers = functools.partial(analyse, matched_images=0)  # nothing to compile


def squares(*sides, label=0):
    """Objects beside each other."""
    return [((32 * i, 0, 32 * i + side, side), label) for i, side in enumerate(sides)]


@pytest.fixture(scope="module")
def source():
    return ListedSource(
        [*squares(4, 8, 20, 32), ((100, 50, 150, 100), 1)],
        [((0, 0, 60, 60), 1), ((0, 0, 90, 90), 0, True)],
        [],
    )


def test_objects_are_resized_as_images_are(source):
    objects = network_objects(source.records, make_geometry((50, 100), levels=1))
    # Half the size; 50 x 100 is padded to multiples of 32.
    np.testing.assert_array_equal(objects.boxes[4], [50, 25, 75, 50])
    np.testing.assert_array_equal(objects.canvas, np.tile([64, 128], (6, 1)))
    np.testing.assert_array_equal(objects.image, [0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(objects.side, [2, 4, 10, 16, 25, 30])
    np.testing.assert_array_equal(objects.original_side, 2 * objects.side)


def test_height_and_width_are_rounded_by_themselves():
    source = ListedSource([((0, 0, 202, 100), 0)], size=(100, 202))
    objects = network_objects(source.records, make_geometry((50, 100), levels=1))
    # 100 / 202 of 100 rows are 49.5, of which 49 are left.
    np.testing.assert_allclose(objects.boxes, [[0, 0, 100, 49]])


def test_numbers(source):
    report = numbers(source, settings(boxes=4))
    assert (report.images, report.empty_images, report.objects, report.ignored) == (3, 1, 6, 1)
    cat, dog = report.classes
    assert (cat.name, cat.objects, cat.images) == ("cat", 4, 1)
    assert (dog.name, dog.objects, dog.images) == ("dog", 2, 2)
    assert dog.side == Spread(50.5, 55.0, 59.5)  # of 50 and 60
    assert report.most_objects == 5
    assert report.objects_per_image.median == 1  # of 5, 1 and 0
    assert report.crowding[:4] == (1, 1, 0, 1)
    # A size class has its lower end: 4, 8, 20, 32, 50 and 60 pixels.
    assert report.sizes == (0, 1, 1, 1, 3, 0, 0, 0)
    assert report.limits[0].images_over == 1
    half = numbers(source, settings(image_size=(50, 100)))
    assert half.sizes_original == report.sizes
    assert half.sizes == (1, 1, 1, 3, 0, 0, 0, 0)  # 2, 4, 10, 16, 25 and 30 pixels
    assert half.tiny == 1
    assert half.classes[1].side_original == dog.side_original
    assert half.classes[1].side == Spread(25.25, 27.5, 29.75)


def test_overlaps_by_size_and_level():
    # p3 has a position at (16, 16), around which its anchor of 32 x 32 is the first object.
    source = ListedSource([((0, 0, 32, 32), 0), ((40, 40, 44, 44), 0)], size=(64, 96))
    report = numbers(source, settings((64, 96), anchors=RETINANET._replace(ratios=(1.0,))))
    assert report.overlaps.covered == 0.5
    # An anchor of 32 x 32 overlaps the object of 4 x 4 by 16 of 1024.
    assert (report.overlaps.forced, report.overlaps.none) == (0.5, 0.0)
    assert [k for k, x in enumerate(report.overlaps_by_size) if x.objects] == [1, 4]
    assert report.overlaps_by_size[1].covered == 0.0
    assert report.overlaps_by_size[4].background == 1.0
    assert report.overlaps_by_size[0].covered is None
    assert [level.best for level in report.levels] == [1.0, 0.0, 0.0, 0.0, 0.0]
    assert report.levels[0].foreground == 0.5
    assert report.levels[4].sizes == (512, 645, 812)


def test_the_matcher_makes_objects_compete():
    # Two boxes of 32 x 32 in one place: each anchor goes to the first, and none to the second.
    both = ListedSource([((16, 16, 48, 48), 0), ((16, 16, 48, 48), 1)], [], size=(64, 96))
    report = analyse(both, settings((64, 96)))
    assert report.overlaps.covered == 1.0
    assert (report.matched_images, report.matched.objects, report.matched.matched) == (1, 2, 0.5)
    assert [k for k, x in enumerate(report.matched_by_size) if x.objects] == [4]
    # One alone is the first of its anchors' two: it gets all of them.
    alone = ListedSource([((16, 16, 48, 48), 0)], size=(64, 96))
    anchors = analyse(alone, settings((64, 96))).matched.anchors
    assert anchors.median == 2 * report.matched.anchors.median
    layout = RETINANET.layout
    shapes = [(-(-64 // s), -(-96 // s)) for s in layout.strides]
    strides = [(64 // rows, 96 // columns) for rows, columns in shapes]
    every = ops.pyramid_anchors(shapes, strides, layout.sizes, layout.ratios)
    matches = match(every, np.float32([[16, 16, 48, 48]]), np.array([True]))
    assert anchors.median == int((matches.state == ops.MatchState.POSITIVE).sum())
    assert analyse(alone, settings((64, 96)), matched_images=0).matched.objects == 0


def test_images_of_too_many_objects_for_the_memory_are_not_matched(monkeypatch):
    monkeypatch.setattr("ipg_jax.analysis.assignment._MOST_PAIRS", 4 * 9 * 129)
    # RetinaNet's levels have 96 + 24 + 6 + 2 + 1 positions on 64 x 96, nine anchors each.
    crowded = [((16, 16, 48, 48), 0)] * 5
    report = analyse(ListedSource(crowded, crowded[:3], size=(64, 96)), settings((64, 96)))
    assert report.settings[0].anchors == 9 * 129
    assert (report.matched_images, report.matched.objects) == (1, 3)


def test_a_sample_of_the_objects_says_about_the_same():
    rng = np.random.default_rng(0)
    images = [
        [((x, y, x + s, y + s), 0) for x, y, s in rng.integers(8, 48, (30, 3))] for _ in range(40)
    ]
    source = ListedSource(*images)
    whole, part = (numbers(source, settings(), sample=n) for n in (None, 300))
    assert part.overlaps.objects == 300
    assert part.overlaps.covered == pytest.approx(whole.overlaps.covered, abs=0.1)
    assert dataclasses.replace(part, overlaps=whole.overlaps).classes == whole.classes


def test_data_without_objects():
    report = numbers(ListedSource([], []), settings())
    assert report.overlaps.covered is None
    assert report.side == Spread(None, None, None)
    assert report.proposal is None
    assert hints(report) == ([], [])
    assert "0 objects of 2 classes" in format_report(report)
    json.dumps(report.to_json(), allow_nan=False)


def test_json_has_all_of_it(source):
    report = numbers(source, settings())
    values = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert values["classes"][0] == {
        "name": "cat",
        "objects": 4,
        "images": 1,
        "side_original": {"p5": pytest.approx(4.6), "median": 14, "p95": pytest.approx(30.2)},
        "side": {"p5": pytest.approx(4.6), "median": 14, "p95": pytest.approx(30.2)},
    }
    assert values["settings"][0]["fpn_levels"] == [3, 7]
    assert values["proposal"] == values["settings"][-1]
    assert values["overlaps"]["covered"] == report.overlaps.covered


def test_small_objects_want_finer_levels():
    rng = np.random.default_rng(0)
    sides = np.exp(rng.uniform(np.log(14), np.log(70), 400))
    corners = rng.uniform(0, 1, (400, 2)) * np.array([640, 512]) * 0.85
    boxes = np.concatenate([corners, corners + sides[:, None]], axis=1)
    found = propose(boxes, np.tile([512, 640], (400, 1)), RETINANET)
    now, levels, scale, proposal = found
    assert now[:3] == ((3, 7), 4.0, (0.5, 1.0, 2.0))
    assert now.covered < 0.8
    assert levels[:3] == ((2, 5), 4.0, (0.5, 1.0, 2.0))
    assert levels.covered > 0.97
    assert scale.fpn_levels == (3, 7)
    assert scale.anchor_scale < 4
    assert proposal.fpn_levels == (2, 5)  # the fewest that reach down to the backbone's last
    assert proposal.anchor_ratios == now.anchor_ratios
    assert proposal.covered >= max(p.covered for p in found) - 0.01
    # P2 has four times as many positions as P3: 128 x 160 to 16 x 20, nine anchors each.
    assert levels.anchors == 9 * (128 * 160 + 64 * 80 + 32 * 40 + 16 * 20)


def test_what_covers_the_objects_stays_as_it_is():
    x = np.linspace(10, 400, 50)
    boxes = np.stack([x, x, x + 48, x + 48], axis=1)
    now, levels, scale, proposal = propose(boxes, np.tile([512, 640], (50, 1)), RETINANET)
    assert now.covered == 1.0
    # P3 to P5 would do.
    assert levels == scale == proposal == now
    assert propose(boxes[:0], np.zeros((0, 2), np.int64), RETINANET) == []


def test_long_objects_want_other_ratios():
    x = np.linspace(10, 400, 50)
    boxes = np.stack([x, x, x + 120, x + 20], axis=1)  # six times as wide as high
    now, *_, proposal = propose(boxes, np.tile([512, 640], (50, 1)), RETINANET)
    assert now.covered == 0
    assert min(proposal.anchor_ratios) < 0.5
    assert proposal.covered > 0.9


def test_text_is_aligned_and_names_what_to_change(source):
    report = numbers(source, settings(**{"config.eval.max_detections": 4}))
    text = format_report(report)
    assert "3 images, 6 objects of 2 classes, and 1 to ignore" in text
    assert "config.eval.max_detections: 4, and 1 of 3 images have more objects, up to 5" in text
    header, cat, dog, everything = text.split("\n\n")[1].splitlines()[:4]
    assert header.split()[:7] == ["class", "objects", "share", "images", "5", "%", "median"]
    assert {len(line) for line in (header, cat, dog, everything)} == {len(header)}
    assert "Proposal: config.model.fpn_levels=(2,5)" in text


def test_images_without_objects_have_no_spread():
    text = format_report(numbers(ListedSource([], size=(64, 64)), settings()))
    assert "after the resize to " in text
    assert ": none; 0 objects below" in text


def test_hints_warn_of_anchors_and_limits(source):
    lines, warnings = hints(numbers(source, settings(**{"config.eval.max_detections": 4})))
    assert len(lines) == 1
    assert lines[0].startswith("objects after the resize: 5 % 5.0, median 26.0, 95 % 57.5 px;")
    assert "smallest anchor 32 px: " in lines[0]
    assert warnings[0].startswith("config.eval.max_detections: 4, and 1 of 3 images")
    assert warnings[1].startswith("the anchors cover ")
    assert "try config.model.fpn_levels=(2,5)" in warnings[1]
    other = dataclasses.replace(settings(), by_iou=False)  # a matcher that needs no overlap
    assert hints(numbers(source, other)).warnings == []
    assert "For matching by IoU: config.model.fpn_levels=(2,5)" in format_report(
        numbers(source, other)
    )
    fitting = ListedSource([((16, 16, 48, 48), 0)], size=(128, 128))
    assert hints(numbers(fitting, settings((128, 128)))).warnings == []
