"""The page of a run: one file, whose figures are those of the evaluation."""

import json

import numpy as np
import pytest
from listed_source import ListedSource, detection
from page_reader import Reader

from ipg_jax.analysis.charts import Line, interval_chart, line_chart
from ipg_jax.analysis.compare import Comparison, Estimate, compare, run_hits
from ipg_jax.analysis.comparison import comparison_section, verdicts
from ipg_jax.analysis.curves import curves
from ipg_jax.analysis.errors import judge
from ipg_jax.analysis.pictures import CROP_SIDE, crop
from ipg_jax.analysis.run_figures import RunFigures, check_comparable
from ipg_jax.analysis.run_page import run_page
from ipg_jax.evaluation import evaluate_coco

NAMES = ("<cat>", "dog & co")


def figures_of(source, results, history=None):
    return RunFigures(
        name="run<1>",
        history=history or {},
        step=1200,
        metrics=evaluate_coco(source, results),
        results=results,
        parameters={"backbone": 1_000_000, "head": 234_567},
        image_size=(512, 640),
        class_names=source.class_names,
        data=source.name,
        annotated=len(source),
        evaluated=len(source),
        score_threshold=0.05,
        max_detections=100,
    )


def page_of(source, results, history=None):
    judged = judge(source, results)
    run = figures_of(source, results, history)
    return Reader(run_page(source, run, judged, curves(judged)))


@pytest.fixture
def source():
    objects = [((10, 10, 16, 16), 0), ((50, 20, 90, 80), 1), ((0, 0, 40, 9), 2, True)]
    return ListedSource(objects, [((60, 60, 63, 63), 0)], [], class_names=NAMES)


def test_it_shows_what_was_missed_and_what_is_wrong(source):
    results = [
        detection(0, (10, 10, 16, 16), 0, 0.9),
        detection(0, (50, 20, 90, 80), 0, 0.8),  # the dog, taken for a cat
        detection(0, (150, 50, 170, 70), 0, 0.95),
        detection(0, (2, 2, 8, 8), 0, 0.99),  # in the region to ignore
        detection(0, (50, 20, 90, 80), 1, 0.3),
        detection(2, (50, 20, 90, 80), 1, 0.6),  # before the right one: F1 is best with both
    ]
    steps = [10, 20, 30]
    history = {
        "train/loss": (steps, [2.0, float("nan"), 1.0]),
        "train/unreadable_images": (steps, [0.0, 0.0, 0.0]),
        "train/images_per_second": (steps, [3.0, 5.0, 4.0]),
        "eval/coco_AP": (steps, [0.1, 0.2, 0.3]),
        "eval/coco_AP50": ([30], [0.5]),
    }
    found = page_of(source, results, history)
    assert {"Confusion", "Sizes", "False positives"} <= {*found.texts["h2"]}
    assert "run<1>" in found.text
    assert {"loss", "COCO's AP", "images per second", "4", "1.23 M"} <= set(found.text)
    assert "unreadable images" not in found.text  # always 0
    captions = [t for t in found.text if t.startswith(("<cat> ", "dog & co "))]
    # The cat of 3 pixels; then the sure false positives by size, 20 to 49 pixels.
    assert captions == [
        "<cat> 3x3",
        "<cat> 20x20, 0.95, background",
        "dog & co 40x60, 0.60, background",
    ]
    assert {picture.shape for picture in found.pixels()} == {(CROP_SIDE, CROP_SIDE, 3)}
    assert [image["title"] for image in found.images] == ["<1>.png", "<0>.png", "<2>.png"]


def test_a_run_that_found_nothing_has_a_page(source):
    found = page_of(source, [])
    assert "The run's metrics.jsonl holds no curve." in found.text
    sentence = "0 detections: nothing was found above config.eval.score_threshold=0.05."
    assert any(text.startswith(sentence) for text in found.text)
    # Of nothing there are no curves, sizes, confusion and false positives.
    sections = ["Training", "Average precision", "Errors", "Missed objects", "Model"]
    assert found.texts["h2"] == sections
    assert len(found.images) == 3  # all objects are missed
    broken = ListedSource([((10, 10, 16, 16), 0)], class_names=NAMES, unreadable=[0])
    assert page_of(broken, []).images == []
    page_of(ListedSource([], class_names=NAMES), [])


def test_figures_of_whole_images_and_tiles_are_in_one_chart_for_each_metric(source):
    figures = ("coco_AP", "coco_AP_small", "voc_mAP")
    views = ("", "tiled_", "both_")
    history = {
        f"eval/{view}{figure}": ([1, 2], [0.1, 0.2 + k / 10])
        for k, view in enumerate(views)
        for figure in figures
    }
    found = page_of(source, [], history)
    charts = found.texts["h3"]
    assert charts[:2] == ["COCO's AP", "voc"]
    assert not {"tiled", "both"} & {*charts}
    # The name of a line is in the legend and where the pointer rests on the line.
    lines = [f"{view} {figure}" for view in ("tiled", "both") for figure in ("AP", "mAP")]
    assert [found.text.count(line) for line in lines] == [2] * 4
    assert not any("AP_small" in text for text in found.text)


def test_lines_go_through_their_points():
    nan = float("nan")
    line = Line("a<b", np.array([0.0, 1, 2, 3, 4]), np.array([0.0, 1, nan, 1, 0.5]), "red", mark=4)
    chart = line_chart([line], x_label="x<y", x_range=(0.0, 4.0), y_range=(0.0, 1.0))
    assert "a&lt;b" in chart
    assert "x&lt;y" in chart
    # From 62 to 378 pixels, and from 222 up to 28: the legend has a row of 18.
    assert 'd="M62.0 222.0L141.0 28.0M299.0 28.0L378.0 125.0"' in chart
    assert 'cx="378.0" cy="125.0"' in chart
    ticks = [0, 1, 2, 3, 4]
    assert all(f">{tick}</text>" in chart for tick in ticks)
    assert "<svg" in line_chart([], x_label="")
    # Ten thousand points in 316 pixels: one for each half pixel.
    x = np.linspace(0, 1, 10_000)
    long = line_chart([Line("", x, x)], x_label="")
    assert 300 < long.count("L") < 1000
    assert "L378.0 10.0" in long
    constant = line_chart([Line("", np.array([5.0]), np.array([2.0]))], x_label="")
    assert "M220.0 116.0" in constant  # in the middle: 10 to 222 pixels
    assert "nan" not in constant + chart


def test_others_have_white_frames():
    image = np.zeros((100, 200, 3), np.uint8)
    picture = crop(image, np.array([80.0, 40, 100, 60]), 1, np.array([[70.0, 30, 110, 70]]))
    # 60 x 60 pixels from (60, 20), enlarged by 2.4: the other box is from 24 to 120.
    assert (picture[24, 24:121] == 255).all()
    assert (picture[24:121, 120] == 255).all()
    assert (picture[:24] == 0).all()
    assert (picture[30:40, 30:40] == 0).all()


def test_the_scalars_of_a_run(tmp_path):
    from ipg_jax.training.metrics import read_scalars

    assert read_scalars(tmp_path) == {}
    lines = [
        {"step": 1, "train/loss": 2.0},
        {"step": 2, "train/loss": None, "eval/coco_AP": 0.5},
        {"loss": 1.0},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"step": 3, "trai'
    (tmp_path / "metrics.jsonl").write_text(text)
    scalars = read_scalars(tmp_path)
    assert scalars["eval/coco_AP"] == ([2], [0.5])
    steps, values = scalars["train/loss"]
    assert steps == [1, 2]
    np.testing.assert_array_equal(values, [2.0, np.nan])


def test_runs_that_cannot_be_compared(source):
    first = figures_of(source, [])
    check_comparable(first, first)
    check_comparable(first, first._replace(evaluated=None))
    with pytest.raises(ValueError, match=r"--compare=run<1>: .* on 4 images, and run<1> on 3"):
        check_comparable(first, first._replace(evaluated=4))
    with pytest.raises(ValueError, match="trained with the classes\n  cat\n"):
        check_comparable(first, first._replace(class_names=["cat"]))


def test_the_section_of_a_comparison(source):
    right = [detection(0, (10, 10, 16, 16), 0, 0.9), detection(0, (50, 20, 90, 80), 1, 0.8)]
    every = [*right, detection(1, (60, 60, 63, 63), 0, 0.7)]
    hits = [run_hits(source, results) for results in (every, every, right)]
    found = compare(source.class_names, hits, resamples=100)
    names = ("new", "same", "<old>")
    same, old = verdicts(names, found)
    unlike = "cannot be told apart: the difference is"
    assert same == f"AP of same and new {unlike} +0.0 points (+0.0 to +0.0)."
    # Of the cats, one of two: recall stops at 1/2, which 51 of 101 points reach; the dog is found.
    assert old.startswith(f"AP of <old> and new {unlike} -24.8 points (")
    text = comparison_section(names, found)
    reader = Reader(text)
    assert {"100.0", "75.2", "-24.8", "+0.0"} <= set(reader.text)
    assert "AP50 of <old> above that of new" in reader.text
    nothing = ListedSource([], class_names=NAMES)
    hits = [run_hits(nothing, [])] * 2
    reader = Reader(comparison_section("ab", compare(NAMES, hits, resamples=2)))
    assert "all" not in reader.text  # there is nothing to draw
    better = Comparison(
        {"AP": [Estimate(0.5, 0.4, 0.6)] * 2, "AP50": [Estimate(0.5, 0.4, 0.6)] * 2},
        {"AP": [Estimate(0.02, 0.01, 0.03)], "AP50": [Estimate(0.02, 0.01, 0.03)]},
    )
    assert verdicts(("a", "b"), better) == [
        "AP of b is above that of a: the difference is +2.0 points (+1.0 to +3.0)."
    ]


def test_intervals_are_drawn_to_scale():
    chart = interval_chart(["a", "<b>"], [(1.0, -1.0, 3.0), (2.0, 1.0, 4.0)], ["", ""], width=256)
    # From -1 at 16 + 3 * 7 = 37 to 4 at 256 - 16 = 240: 40.6 pixels each.
    assert 'd="M77.6 0V44"' in chart
    assert 'd="M37.0 11H199.4" stroke="#6b7280"' in chart  # 0 is within
    assert 'd="M118.2 33H240.0" stroke="#2563eb"' in chart
    assert "&lt;b&gt;" in chart
