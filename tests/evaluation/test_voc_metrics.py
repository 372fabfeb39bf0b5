"""VOC's average precision against values worked out by hand and against a slow twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax.evaluation import evaluate_voc

A, B, C = (0, 0, 10, 10), (50, 50, 60, 60), (100, 100, 110, 110)


def slow_iou(a, b):
    """VOC's: first and last pixel of each box, 1-based, hence the added ones."""
    a_first, a_last = (a[0] + 1, a[1] + 1), (a[2], a[3])
    b_first, b_last = (b[0] + 1, b[1] + 1), (b[2], b[3])

    def area(first, last):
        width, height = (last[i] - first[i] + 1 for i in range(2))
        return max(width, 0) * max(height, 0)

    first = [max(a_first[i], b_first[i]) for i in range(2)]
    last = [min(a_last[i], b_last[i]) for i in range(2)]
    common = area(first, last)
    return common / (area(a_first, a_last) + area(b_first, b_last) - common)


def slow_class(ground_truth, results, label, threshold):
    """One class's AP by the rules in words: one detection after the other, best first."""
    records = ground_truth.records
    taken, outcomes = set(), []
    mine = [r for r in results if r["category_id"] == ground_truth.category_ids[label]]
    for result in sorted(mine, key=lambda r: -r["score"]):
        image = records.image_ids.index(result["image_id"])
        x, y, width, height = result["bbox"]
        best, best_iou = None, 0.0
        for k in range(records.offsets[image], records.offsets[image + 1]):
            iou = slow_iou((x, y, x + width, y + height), records.boxes[k])
            if records.labels[k] == label and iou > best_iou:
                best, best_iou = k, iou
        if best_iou < threshold:
            outcomes.append(False)
        elif not records.ignore[best]:
            outcomes.append(best not in taken)
            taken.add(best)
    objects = sum((records.labels == label) & ~records.ignore)
    if objects == 0:
        return None, None
    recall = [sum(outcomes[: i + 1]) / objects for i in range(len(outcomes))]
    precision = [sum(outcomes[: i + 1]) / (i + 1) for i in range(len(outcomes))]

    def interpolated(least_recall):
        reached = [p for r, p in zip(recall, precision, strict=True) if r >= least_recall]
        return max(reached, default=0.0)

    area = sum(interpolated(n / objects) / objects for n in range(1, objects + 1))
    return area, sum(interpolated(j / 10) for j in range(11)) / 11


@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.3, 0.5, 0.75]))
def test_equals_the_slow_twin(random_case, seed, threshold):
    ground_truth, results = random_case(seed)
    metrics = evaluate_voc(ground_truth, results, iou_threshold=threshold)
    expected = [
        slow_class(ground_truth, results, label, threshold)
        for label in range(len(ground_truth.class_names))
    ]
    for row, pair in zip(metrics["per_class"].values(), expected, strict=True):
        assert [row["AP"], row["AP_11point"]] == [
            None if value is None else pytest.approx(value) for value in pair
        ]
    defined = [pair for pair in expected if pair[0] is not None]
    if defined:
        means = np.mean(defined, axis=0)
        assert [metrics["mAP"], metrics["mAP_11point"]] == pytest.approx(means.tolist())
    else:
        assert (metrics["mAP"], metrics["mAP_11point"]) == (None, None)


def test_perfect_detections_of_one_image(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(A, 0), (B, 1)])
    results = make_results(ground_truth, (0, A, 0, 0.9), (0, B, 1, 0.8))
    perfect = {"objects": 1, "AP": 1.0, "AP_11point": 1.0, "recall": 1.0}
    assert evaluate_voc(ground_truth, results) == {
        "mAP": 1.0,
        "mAP_11point": 1.0,
        "per_class": {"cat": perfect, "dog": perfect},
    }


def test_both_rules_on_a_curve_worked_out_by_hand(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(A, 0), (B, 0)], [(C, 0)])
    # Best first: hit, miss, hit; the third object is not found. Interpolated precision is 1 up
    # to recall 1/3 and 2/3 up to recall 2/3.
    results = make_results(ground_truth, (0, A, 0, 0.9), (1, A, 0, 0.8), (1, C, 0, 0.7))
    row = evaluate_voc(ground_truth, results)["per_class"]["cat"]
    assert row["AP"] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)
    # Recalls 0, 0.1, 0.2, 0.3 see precision 1, and 0.4, 0.5, 0.6 see 2/3.
    assert row["AP_11point"] == pytest.approx((4 * 1 + 3 * 2 / 3) / 11)
    assert row["recall"] == pytest.approx(2 / 3)


def test_recall_of_three_in_ten_reaches_three_tenths(make_ground_truth, make_results):
    boxes = [(15 * i, 0, 15 * i + 10, 10) for i in range(10)]
    ground_truth = make_ground_truth([(box, 0) for box in boxes])
    results = make_results(ground_truth, *((0, box, 0, 0.9) for box in boxes[:3]))
    row = evaluate_voc(ground_truth, results)["per_class"]["cat"]
    assert row["AP_11point"] == pytest.approx(4 / 11)


def test_second_detection_of_an_object_is_false(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(A, 0), (B, 0)])
    results = make_results(ground_truth, (0, A, 0, 0.7), (0, A, 0, 0.9), (0, B, 0, 0.5))
    row = evaluate_voc(ground_truth, results)["per_class"]["cat"]
    assert row["AP"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_only_the_most_overlapped_object_is_a_candidate(make_ground_truth, make_results):
    near = (0, 0, 10, 8)
    ground_truth = make_ground_truth([(A, 0), (near, 0)])
    # Both detections overlap A most (IoU 1 and 0.9); the second would do for `near` too (0.89).
    results = make_results(ground_truth, (0, A, 0, 0.9), (0, (0, 0, 10, 9), 0, 0.8))
    assert evaluate_voc(ground_truth, results)["per_class"]["cat"]["AP"] == 0.5


@pytest.mark.parametrize(("difficult_first", "expected"), [(True, 0.0), (False, 1.0)])
def test_first_of_equal_overlaps_is_the_candidate(
    make_ground_truth, make_results, difficult_first, expected
):
    ground_truth = make_ground_truth([(A, 0, difficult_first), (A, 0, not difficult_first)])
    results = make_results(ground_truth, (0, A, 0, 0.9))
    assert evaluate_voc(ground_truth, results)["mAP"] == expected


def test_difficult_object_counts_for_nothing(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(A, 0), (B, 0, True)])
    # Two detections of the difficult object come first, and leave the precision at 1.
    results = make_results(ground_truth, (0, B, 0, 0.9), (0, B, 0, 0.8), (0, A, 0, 0.7))
    row = evaluate_voc(ground_truth, results)["per_class"]["cat"]
    assert row == {"objects": 1, "AP": 1.0, "AP_11point": 1.0, "recall": 1.0}


def test_class_of_difficult_objects_only_has_no_figure(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(A, 0), (B, 1, True)])
    results = make_results(ground_truth, (0, A, 0, 0.9), (0, B, 1, 0.9), (0, C, 1, 0.9))
    metrics = evaluate_voc(ground_truth, results)
    nothing = {"objects": 0, "AP": None, "AP_11point": None, "recall": None}
    assert metrics["per_class"]["dog"] == nothing
    assert metrics["mAP"] == 1.0


def test_iou_counts_pixels_inclusively(make_ground_truth, make_results):
    # VOC writes (1, 1, 1, 2) and (1, 1, 1, 1): two pixels and one of them, IoU exactly 1/2.
    ground_truth = make_ground_truth([((0, 0, 1, 2), 0)])
    results = make_results(ground_truth, (0, (0, 0, 1, 1), 0, 0.9))
    assert evaluate_voc(ground_truth, results, iou_threshold=0.5)["mAP"] == 1.0
    assert evaluate_voc(ground_truth, results, iou_threshold=0.51)["mAP"] == 0.0


def test_wrong_class_and_wrong_image_do_not_match(make_ground_truth, make_results):
    ground_truth = make_ground_truth([(A, 0)], [(B, 1)])
    results = make_results(ground_truth, (0, A, 1, 0.9), (1, A, 0, 0.8))
    assert evaluate_voc(ground_truth, results)["mAP"] == 0.0


def test_no_detection_is_zero_and_no_object_is_none(make_ground_truth):
    metrics = evaluate_voc(make_ground_truth([(A, 0)], []), [])
    assert (metrics["mAP"], metrics["mAP_11point"]) == (0.0, 0.0)
    assert metrics["per_class"]["dog"]["AP"] is None
    metrics = evaluate_voc(make_ground_truth([]), [])
    assert (metrics["mAP"], metrics["mAP_11point"]) == (None, None)


def test_box_without_area_is_a_miss(make_ground_truth, make_results):
    ground_truth = make_ground_truth([((5, 5, 5, 5), 0), (A, 0)])
    results = make_results(ground_truth, (0, (5, 5, 5, 5), 0, 0.9))
    assert evaluate_voc(ground_truth, results)["mAP"] == 0.0


@pytest.mark.parametrize("threshold", [0.0, -1.0, 1.1])
def test_threshold_out_of_range_is_refused(make_ground_truth, threshold):
    with pytest.raises(ValueError, match="iou_threshold"):
        evaluate_voc(make_ground_truth([]), [], iou_threshold=threshold)
