"""Regions to ignore, of no class: what is in them counts for no class, by every metric."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ipg_jax.evaluation import evaluate_coco, evaluate_voc
from ipg_jax.evaluation.regions import covered_area

A = (10.0, 10.0, 50.0, 50.0)
REGION = (100.0, 100.0, 200.0, 200.0)
NO_CLASS = 2  # of the two classes cat and dog

boxes = arrays(np.int64, st.tuples(st.integers(0, 6), st.just(4)), elements=st.integers(0, 12)).map(
    lambda x: np.concatenate([x[:, :2], x[:, :2] + x[:, 2:]], axis=1)
)


@given(boxes, boxes)
def test_the_area_that_a_union_covers_is_that_of_its_pixels(some, regions):
    covered = np.zeros((24, 24), bool)
    for x0, y0, x1, y1 in regions:
        covered[y0:y1, x0:x1] = True
    expected = [covered[y0:y1, x0:x1].sum() for x0, y0, x1, y1 in some]
    np.testing.assert_array_equal(
        covered_area(some.astype(float), regions.astype(float)), np.array(expected, float)
    )


def test_nothing_in_a_region_is_a_false_positive_whatever_its_class(
    make_ground_truth, make_results
):
    truth = make_ground_truth([(A, 0), (A, 1), (REGION, NO_CLASS, True)])
    inside = [(0, (110, 110, 140, 140), k, 0.9) for k in (0, 1)]
    found = make_results(truth, *inside, (0, A, 0, 0.5), (0, A, 1, 0.5))
    coco, voc = evaluate_coco(truth, found), evaluate_voc(truth, found)
    assert coco["AP"] == pytest.approx(1.0)
    assert voc["mAP"] == 1.0
    assert [coco["per_class"]["cat"]["objects"], voc["per_class"]["dog"]["objects"]] == [1, 1]
    # A crowd of cats forgives cats alone.
    crowd = make_ground_truth([(A, 0), (A, 1), (REGION, 0, True)])
    coco = evaluate_coco(crowd, found)["per_class"]
    assert (coco["cat"]["AP"], coco["dog"]["AP"]) == pytest.approx((1.0, 0.5))


@pytest.mark.parametrize(("left", "forgiven"), [(76, True), (75, False), (60, False)])
def test_more_than_half_of_a_detection_is_in_the_region(
    make_ground_truth, make_results, left, forgiven
):
    truth = make_ground_truth([(A, 0), (REGION, NO_CLASS, True)])
    # Of 50 columns from 75 on, 25 are in the region, which begins at 100.
    found = make_results(truth, (0, (left, 110, left + 50, 140), 0, 0.9), (0, A, 0, 0.5))
    expected = 1.0 if forgiven else 0.5
    assert evaluate_coco(truth, found)["AP"] == pytest.approx(expected)
    assert evaluate_voc(truth, found)["mAP"] == expected


def test_two_regions_cover_together(make_ground_truth, make_results):
    halves = [((100, 100, 120, 200), NO_CLASS, True), ((120, 100, 140, 200), NO_CLASS, True)]
    found = (0, (105, 110, 150, 140), 0, 0.9)  # 15 and 20 of 45 columns: neither is half
    for regions, expected in ((halves, 1.0), (halves[:1], 0.5), (halves[1:], 0.5)):
        truth = make_ground_truth([(A, 0), *regions])
        metrics = evaluate_coco(truth, make_results(truth, found, (0, A, 0, 0.5)))
        assert metrics["AP"] == pytest.approx(expected)


def test_an_object_in_a_region_can_still_be_found(make_ground_truth, make_results):
    inside = (110, 110, 140, 140)
    truth = make_ground_truth([(inside, 0), (A, 0), (REGION, NO_CLASS, True)])
    found = make_results(truth, (0, inside, 0, 0.9), (0, inside, 0, 0.8), (0, A, 0, 0.7))
    assert evaluate_coco(truth, found)["AP"] == pytest.approx(1.0)
    assert evaluate_voc(truth, found)["mAP"] == 1.0
    missed = make_results(truth, (0, A, 0, 0.7))
    assert evaluate_voc(truth, missed)["per_class"]["cat"]["recall"] == 0.5


def test_a_region_is_of_its_own_image(make_ground_truth, make_results):
    truth = make_ground_truth([(A, 0)], [(REGION, NO_CLASS, True)])
    found = make_results(truth, (0, (110, 110, 140, 140), 0, 0.9), (0, A, 0, 0.5))
    assert evaluate_coco(truth, found)["AP"] == pytest.approx(0.5)
    assert evaluate_voc(truth, found)["mAP"] == 0.5


@given(seed=st.integers(0, 10_000))
def test_regions_without_detections_change_nothing(random_case, make_ground_truth, seed):
    truth, results = random_case(seed)
    records = truth.records
    rows = [
        [
            *(
                (records.boxes[j], records.labels[j], records.ignore[j])
                for j in range(records.offsets[i], records.offsets[i + 1])
            ),
            ((900, 900, 950, 950), len(truth.class_names), True),
        ]
        for i in range(len(records.image_ids))
    ]
    with_regions = make_ground_truth(
        *rows, image_ids=records.image_ids, class_names=truth.class_names, size=(1000, 1000)
    )
    assert evaluate_coco(with_regions, results) == evaluate_coco(truth, results)
    assert evaluate_voc(with_regions, results) == evaluate_voc(truth, results)
