"""What became of detections and objects: each kind of error by hand, TIDE's figures by TIDE."""

import functools
import json
import pathlib

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from listed_source import ListedSource, detection

from ipg_jax.analysis.confusion import confusion
from ipg_jax.analysis.curves import curves, thresholds, thresholds_json
from ipg_jax.analysis.errors import Outcome, judge
from ipg_jax.analysis.tide import tide
from ipg_jax.evaluation import evaluate_coco

CASES = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "tide.json").read_text())
CAT, DOG, REGION = range(3)
BOX = (0, 0, 10, 10)


def results(*found):
    """COCO results of rows `(image, box, label, score)`, boxes as `xyxy`."""
    return [detection(*row) for row in found]


def outcomes(objects, *found):
    """The outcomes of detections `(box, label)` of one image, the best first."""
    rows = [(0, box, label, 0.9 - 0.1 * k) for k, (box, label) in enumerate(found)]
    return [Outcome(k) for k in judge(ListedSource(objects), results(*rows)).outcome]


# Beside BOX, (5, 0, 15, 10) has 50 of 150 pixels in common, an IoU of 1/3; (0, 0, 10, 5) has 1/2;
# (9, 0, 19, 10) has 10 of 190, less than 0.1.
@pytest.mark.parametrize(
    ("box", "label", "outcome"),
    [
        (BOX, CAT, Outcome.TRUE_POSITIVE),
        ((0, 0, 10, 5), CAT, Outcome.TRUE_POSITIVE),
        (BOX, DOG, Outcome.CLASSIFICATION),
        ((5, 0, 15, 10), CAT, Outcome.LOCALISATION),
        ((5, 0, 15, 10), DOG, Outcome.BOTH),
        ((9, 0, 19, 10), CAT, Outcome.BACKGROUND),
        ((50, 50, 60, 60), DOG, Outcome.BACKGROUND),
    ],
)
def test_each_outcome_of_a_detection(box, label, outcome):
    assert outcomes([(BOX, CAT)], (box, label)) == [outcome]


def test_the_better_of_two_finds_the_object_and_the_other_is_a_duplicate():
    assert outcomes([(BOX, CAT)], ((0, 0, 10, 9), CAT), (BOX, CAT)) == [
        Outcome.TRUE_POSITIVE,
        Outcome.DUPLICATE,
    ]


def test_all_is_background_where_nothing_is():
    assert outcomes([], (BOX, CAT)) == [Outcome.BACKGROUND]
    assert outcomes([]) == []


def test_regions_ignore_all_classes_and_crowds_their_own():
    region, crowd = ((0, 0, 100, 100), REGION, True), ((0, 0, 100, 100), CAT, True)
    assert outcomes([region], (BOX, CAT), (BOX, DOG)) == [Outcome.IGNORED] * 2
    assert outcomes([crowd], (BOX, CAT), (BOX, DOG)) == [Outcome.IGNORED, Outcome.BACKGROUND]
    # An object inside is found all the same, once.
    assert outcomes([crowd, (BOX, CAT)], (BOX, CAT), (BOX, CAT)) == [
        Outcome.TRUE_POSITIVE,
        Outcome.IGNORED,
    ]
    # Less than half of it is inside.
    assert outcomes([crowd], ((96, 0, 106, 10), CAT)) == [Outcome.BACKGROUND]


def test_objects_know_what_found_them():
    source = ListedSource([(BOX, CAT), ((50, 50, 60, 60), DOG)], [(BOX, DOG), (BOX, CAT, True)])
    judged = judge(source, results((1, BOX, DOG, 0.4), (0, BOX, CAT, 0.8), (0, BOX, DOG, 0.6)))
    assert judged.found.score.tolist() == [0.8, 0.6, 0.4]
    assert judged.partner.tolist() == [0, 0, 2]
    assert judged.finder.tolist() == [0, -1, 2]
    assert judged.missed(np.array([0.5, 0.5])).tolist() == [False, True, True]
    assert judged.kept(np.array([0.9, 0.5])).tolist() == [False, True, False]


def test_equal_scores_rank_by_the_ids_of_their_images_as_in_the_evaluation():
    source = ListedSource([(BOX, CAT)], [(BOX, CAT)], image_ids=[7, 3])
    # Image 3 comes first though its row is the last: a miss, then a hit, of two objects. Precision
    # is 1/2 up to a recall of 1/2, which 51 of 101 points reach, and not 1.
    found = results((7, BOX, CAT, 0.5), (3, (50, 50, 60, 60), CAT, 0.5))
    judged = judge(source, found)
    assert judged.found.image.tolist() == [1, 0]
    assert tide(judged).ap50 == pytest.approx(51 / 202)
    assert tide(judged).ap50 == pytest.approx(evaluate_coco(source, found)["AP50"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{len(case['scenes'])} images")
def test_costs_are_those_of_tide(case):
    def corners(row):
        x, y, width, height = row["box"]
        return (x, y, x + width, y + height)

    scenes, expected = case["scenes"], case["expected"]
    source = ListedSource(
        *([(corners(row), row["label"]) for row in one["objects"]] for one in scenes),
        class_names=["a", "b", "c", "d"],
    )
    rows = [
        (number, corners(row), row["label"], row["score"])
        for number, one in enumerate(scenes)
        for row in one["detections"]
    ]
    found = tide(judge(source, results(*rows)))
    # Where a recall is just one of the 101 points, such as 0.29, it is the rounding of that point
    # that decides on a hundredth of a step of the precision: TIDE's are x / 100, COCO's are not.
    close = functools.partial(pytest.approx, abs=1e-4)
    assert found.counts == expected["counts"]
    assert found.ap50 == close(expected["ap50"])
    assert found.cost == close(expected["cost"])
    assert found.false_positives == close(expected["false_positives"])
    assert found.false_negatives == close(expected["false_negatives"])


def test_what_an_error_costs():
    # A background error before the only find: precision is 1/2 at every recall.
    judged = judge(
        ListedSource([(BOX, CAT)]), results((0, (50, 50, 60, 60), CAT, 0.9), (0, BOX, CAT, 0.5))
    )
    found = tide(judged)
    assert found.ap50 == pytest.approx(0.5)
    assert found.cost["background"] == found.false_positives == pytest.approx(0.5)
    assert found.cost["missed"] == found.false_negatives == 0
    # One of two is missed: recall stops at 1/2, which 51 of 101 points reach.
    judged = judge(ListedSource([(BOX, CAT), ((50, 50, 60, 60), CAT)]), results((0, BOX, CAT, 0.9)))
    found = tide(judged)
    assert found.ap50 == pytest.approx(51 / 101)
    assert found.counts["missed"] == 1
    assert found.cost["missed"] == found.false_negatives == pytest.approx(50 / 101)
    assert tide(judge(ListedSource([]), results((0, BOX, CAT, 1.0)))).ap50 == 0


def test_curves_and_the_threshold_of_the_best_f1():
    source = ListedSource([(BOX, CAT), ((50, 50, 60, 60), CAT)], [(BOX, CAT)], [])
    judged = judge(
        source,
        results(
            *((0, BOX, CAT, 0.9), (2, BOX, CAT, 0.7), (1, BOX, CAT, 0.6), (2, BOX, CAT, 0.6)),
            (2, BOX, DOG, 0.5),
        ),
    )
    cat, dog = curves(judged)
    assert (cat.name, cat.objects) == ("cat", 3)
    np.testing.assert_array_equal(cat.score, [0.9, 0.7, 0.6])  # equal scores go together
    np.testing.assert_allclose(cat.precision, [1, 1 / 2, 2 / 4])
    np.testing.assert_allclose(cat.recall, [1 / 3, 1 / 3, 2 / 3])
    # F1 is 2 TP / (detections + objects).
    np.testing.assert_allclose(cat.f1, [2 / 4, 2 / 5, 4 / 7])
    assert cat.threshold == 0.6
    assert dog.threshold is None  # there is no dog to find
    assert len(dog.score) == 0
    assert thresholds((cat, dog)).tolist() == [0.6, np.inf]
    best = thresholds_json((cat, dog))
    assert best["classes"]["cat"] == pytest.approx(
        {"threshold": 0.6, "f1": 4 / 7, "precision": 0.5, "recall": 2 / 3}
    )
    assert set(best["classes"]["dog"].values()) == {None}
    json.dumps(best, allow_nan=False)


def test_confusion():
    far = (50, 50, 60, 60)
    source = ListedSource([(BOX, CAT), (far, DOG)], [(BOX, DOG)], [((0, 0, 90, 90), REGION, True)])
    judged = judge(
        source,
        results(
            *((0, BOX, CAT, 0.9), (0, far, CAT, 0.8), (0, far, CAT, 0.7), (1, BOX, DOG, 0.3)),
            (2, BOX, CAT, 0.9),
        ),
    )
    # The cat is found; the far dog is taken for a cat, and that cat's double is at nothing that is
    # left; the other dog is found with 0.3 only. What is in a region counts for nothing.
    counts = confusion(judged, np.array([0.5, 0.5]))
    np.testing.assert_array_equal(counts, [[1, 0, 0], [1, 0, 1], [1, 0, 0]])
    counts = confusion(judged, np.array([0.5, 0.3]))
    np.testing.assert_array_equal(counts, [[1, 0, 0], [1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(
        confusion(judged, np.full(2, np.inf)), [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
    )


@hypothesis.given(st.integers(0, 2**32 - 1), st.booleans())
def test_hits_are_those_of_the_benchmark(seed, tied):
    rng = np.random.default_rng(seed)

    def boxes(n):
        corner = rng.integers(0, 20, (n, 2))
        return np.concatenate([corner, corner + rng.integers(3, 12, (n, 2))], axis=1)

    source = ListedSource(
        *(
            [(tuple(box), int(rng.integers(2)), rng.random() < 0.3) for box in boxes(5)]
            for _ in range(3)
        ),
        image_ids=rng.permutation(3).tolist(),
    )
    scores = rng.choice(5 if tied else 30, 30, replace=tied) / 30
    found = results(
        *(
            (int(rng.integers(3)), tuple(box.tolist()), int(rng.integers(2)), float(score))
            for box, score in zip(boxes(30), scores, strict=True)
        )
    )
    judged = judge(source, found)
    expected = evaluate_coco(source, found)
    if expected["AP50"] is not None:
        assert tide(judged).ap50 == pytest.approx(expected["AP50"], abs=1e-9)
    counts = confusion(judged, np.zeros(2))
    counted = judged.outcome != Outcome.IGNORED
    # What is ignored might as well not be there.
    left = judged.found.of(counted)
    ids = [source.records.image_ids[k] for k in left.image]
    rest = results(
        *zip(ids, left.boxes.tolist(), left.label.tolist(), left.score.tolist(), strict=True)
    )
    assert tide(judge(source, rest)) == tide(judged)
    assert counts[:2].sum() == len(judged.objects.label)  # every object, and every detection once
    assert counts[:, :2].sum() == counted.sum()
    assert np.trace(counts) == (judged.outcome == Outcome.TRUE_POSITIVE).sum()
