"""COCO's metrics against values worked out by hand and against pycocotools on files."""

import contextlib
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ipg_jax.evaluation import evaluate_coco, save_results

SUMMARY = [
    "AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large",
    "AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large",
]  # fmt: skip
BOX = (10.0, 10.0, 60.0, 60.0)
SMALL = (100.0, 100.0, 110.0, 110.0)


def by_pycocotools(ground_truth, results, directory):
    """The twelve numbers that pycocotools itself gives for annotation and result files."""
    records = ground_truth.records
    images = np.repeat(np.arange(len(records.image_ids)), np.diff(records.offsets))
    annotations = {
        "images": [{"id": name} for name in records.image_ids],
        "categories": [
            {"id": i, "name": name}
            for i, name in zip(ground_truth.category_ids, ground_truth.class_names, strict=True)
        ],
        "annotations": [
            {
                "id": k + 1,
                "image_id": records.image_ids[image],
                "category_id": ground_truth.category_ids[records.labels[k]],
                "bbox": [float(v) for v in (x1, y1, x2 - x1, y2 - y1)],
                "area": float(records.area[k]),
                "iscrowd": int(records.ignore[k]),
            }
            for k, (image, (x1, y1, x2, y2)) in enumerate(zip(images, records.boxes, strict=True))
        ],
    }
    (directory / "annotations.json").write_text(json.dumps(annotations))
    save_results(directory / "detections.json", results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(directory / "annotations.json"))
        found = truth.loadRes(str(directory / "detections.json"))
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator.stats


def test_more_objects_than_detections_count_is_said(make_ground_truth, make_results, caplog):
    boxes = [(10.0 * x, 10.0 * y, 10.0 * x + 9, 10.0 * y + 9) for x in range(20) for y in range(20)]
    truth = make_ground_truth([(box, 0) for box in boxes], [(BOX, 1)])
    found = make_results(truth, *((0, box, 0, 0.9) for box in boxes), (1, BOX, 1, 0.9))
    metrics = evaluate_coco(truth, found)
    assert metrics["per_class"]["cat"]["AP"] < 0.3
    assert "the best 100 detections of an image and class, and 1 image(s) have more" in caplog.text
    caplog.clear()
    assert evaluate_coco(truth, found, max_detections=(1, 10, 400))["AP"] == 1.0
    assert caplog.text == ""


@given(seed=st.integers(0, 10_000))
def test_results_read_again_by_pycocotools_give_the_same_figures(
    tmp_path_factory, random_case, seed
):
    ground_truth, results = random_case(seed)
    if not results:  # pycocotools cannot read an empty list; a test of its own covers that
        results = [{"image_id": 100, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5}]
    metrics = evaluate_coco(ground_truth, results)
    expected = by_pycocotools(ground_truth, results, tmp_path_factory.mktemp("coco"))
    assert [metrics[name] for name in SUMMARY] == [None if v == -1 else v for v in expected]


@given(seed=st.integers(0, 10_000))
def test_images_may_have_names_instead_of_numbers(random_case, seed):
    ground_truth, results = random_case(seed)
    named = replace(
        ground_truth,
        records=replace(
            ground_truth.records, image_ids=[f"{i:06d}" for i in ground_truth.records.image_ids]
        ),
    )
    renamed = [{**r, "image_id": f"{r['image_id']:06d}"} for r in results]
    assert evaluate_coco(named, renamed) == evaluate_coco(ground_truth, results)


def test_perfect_detections_of_one_image(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0), (SMALL, 1)])
    metrics = evaluate_coco(
        ground_truth, make_results(ground_truth, (0, BOX, 0, 0.9), (0, SMALL, 1, 0.8))
    )
    # 50 x 50 is a medium object, and no object is large.
    # pycocotools adds an epsilon to its denominators, so that 1 comes out a hair below.
    assert {name: metrics[name] for name in SUMMARY} == pytest.approx(
        {**dict.fromkeys(SUMMARY, 1.0), "AP_large": None, "AR_large": None}
    )
    per_size = {"AP_small": 1.0, "AP_medium": None, "AP_large": None}
    assert metrics["per_class"]["dog"] == pytest.approx(
        {"objects": 1, "AP": 1.0, "AP50": 1.0, "AP75": 1.0, **per_size, "AR100": 1.0}
    )


def test_no_detection_is_zero_and_no_object_is_none(make_ground_truth):
    ground_truth = make_ground_truth([(BOX, 0)], [])
    metrics = evaluate_coco(ground_truth, [])
    assert (metrics["AP"], metrics["AP_medium"], metrics["AR100"]) == (0.0, 0.0, 0.0)
    assert (metrics["AP_small"], metrics["AR_large"]) == (None, None)
    assert metrics["per_class"]["cat"]["AP"] == 0.0
    assert metrics["per_class"]["dog"]["AP"] is None
    empty = evaluate_coco(make_ground_truth([]), [])
    assert {empty[name] for name in SUMMARY} == {None}
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_loose_box_counts_up_to_its_overlap(make_ground_truth, make_results):
    ground_truth = make_ground_truth([((0, 0, 100, 100), 0)])
    # IoU 0.72: correct at 0.50, 0.55, ..., 0.70, which is 5 of 10 thresholds.
    metrics = evaluate_coco(ground_truth, make_results(ground_truth, (0, (0, 0, 100, 72), 0, 0.9)))
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["AR100"] == pytest.approx(0.5)
    assert [metrics["AP50"], metrics["AP75"]] == pytest.approx([1.0, 0.0])


def test_false_positive_above_the_true_one_halves_the_precision(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0)], [])
    results = make_results(ground_truth, (1, BOX, 0, 0.9), (0, BOX, 0, 0.8))
    metrics = evaluate_coco(ground_truth, results)
    assert metrics["AP"] == pytest.approx(0.5)
    assert metrics["AR1"] == 1.0


def test_of_equal_overlaps_the_last_object_is_taken(make_ground_truth, make_results):
    a, b, between = (0, 0, 10, 10), (4, 0, 14, 10), (2, 0, 12, 10)
    # The better detection overlaps both by 80 / 120, and the other one is exactly the first.
    for objects, expected in (((a, b), 1.0), ((b, a), 51 / 101)):
        ground_truth = make_ground_truth([(box, 0) for box in objects])
        results = make_results(ground_truth, (0, between, 0, 0.9), (0, a, 0, 0.8))
        assert evaluate_coco(ground_truth, results)["AP50"] == pytest.approx(expected)


def test_limits_on_detections(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0), (SMALL, 0)])
    results = make_results(ground_truth, (0, BOX, 0, 0.9), (0, SMALL, 0, 0.8))
    metrics = evaluate_coco(ground_truth, results, max_detections=(1,))
    # One of two objects is found: precision 1 at the 51 recalls 0, 0.01, ..., 0.50 of 101.
    assert metrics["AP"] == pytest.approx(51 / 101)
    assert metrics["AR1"] == 0.5
    assert "AR100" not in metrics
    assert metrics["per_class"]["cat"]["AR1"] == 0.5
    assert metrics["per_class"]["dog"]["AR1"] is None
    assert evaluate_coco(ground_truth, results, max_detections=(1, 2))["AR2"] == 1.0


@pytest.mark.parametrize("limits", [(), (10, 1), (1, 1), (0, 1)])
def test_limits_must_ascend(make_ground_truth, limits):
    with pytest.raises(ValueError, match="ascend"):
        evaluate_coco(make_ground_truth([]), [], max_detections=limits)


def test_crowd_swallows_any_number_of_detections(make_ground_truth, make_results):
    crowd = (100.0, 0.0, 200.0, 100.0)
    ground_truth = make_ground_truth([(BOX, 0), (crowd, 0, True)])
    inside = [(0, (100 + 10 * i, 0, 130 + 10 * i, 30), 0, 0.95) for i in range(5)]
    results = make_results(ground_truth, (0, BOX, 0, 0.9), *inside)
    metrics = evaluate_coco(ground_truth, results)
    assert metrics["AP"] == pytest.approx(1.0)
    assert metrics["per_class"]["cat"]["objects"] == 1
    # The same boxes are mistakes when the region is not a crowd.
    plain = make_ground_truth([(BOX, 0), (crowd, 0)])
    assert evaluate_coco(plain, results)["AP"] < 0.2


def test_class_of_crowds_only_has_no_figure(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0), (SMALL, 1, True)])
    results = make_results(ground_truth, (0, BOX, 0, 0.9), (0, SMALL, 1, 0.9))
    metrics = evaluate_coco(ground_truth, results)
    assert metrics["per_class"]["dog"]["AP"] is None
    assert metrics["AP"] == pytest.approx(1.0)


def test_size_classes_follow_the_area_of_the_annotation(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0)])
    # A thin shape in a 50 x 50 box: its own area makes it small, as COCO's segmentations do.
    ground_truth = replace(
        ground_truth,
        records=replace(ground_truth.records, area=np.array([200.0], np.float32)),
    )
    metrics = evaluate_coco(ground_truth, make_results(ground_truth, (0, BOX, 0, 0.9)))
    assert metrics["AP_small"] == pytest.approx(1.0)
    assert metrics["AP_medium"] is None


def test_size_classes_of_ones_own(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(BOX, 0), (SMALL, 0)])
    results = make_results(ground_truth, (0, SMALL, 0, 0.9))
    sizes = {"tiny": (0.0, 150.0), "rest": (150.0, 1e10)}
    metrics = evaluate_coco(ground_truth, results, area_ranges=sizes)
    assert [metrics["AP_tiny"], metrics["AP_rest"]] == pytest.approx([1.0, 0.0])
    assert metrics["per_class"]["cat"]["AP_tiny"] == pytest.approx(1.0)
    assert "AP_small" not in metrics


@pytest.mark.parametrize(("key", "value"), [("image_id", 5), ("category_id", 1)])
def test_results_of_another_data_set_are_refused(make_ground_truth, make_results, key, value):
    ground_truth = make_ground_truth([(BOX, 0)])
    results = make_results(ground_truth, (0, BOX, 0, 0.9))
    results[0][key] = value
    with pytest.raises(ValueError, match=f"1 values of {key} in the results .*: {value}"):
        evaluate_coco(ground_truth, results)


def test_two_images_of_one_name_are_refused(make_ground_truth):
    with pytest.raises(ValueError, match="image id 3 more than once"):
        evaluate_coco(make_ground_truth([], [], image_ids=[3, 3]), [])


def test_nothing_is_printed_and_results_are_left_alone(make_ground_truth, make_results, capsys):
    ground_truth = make_ground_truth([(BOX, 0)])
    results = make_results(ground_truth, (0, BOX, 0, 0.9))
    evaluate_coco(ground_truth, results)
    assert capsys.readouterr().out == ""
    assert results == make_results(ground_truth, (0, BOX, 0, 0.9))
