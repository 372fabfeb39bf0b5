"""Paired bootstrap over images: AP of draws is COCO's, and intervals are of differences."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from listed_source import ListedSource, detection

from ipg_jax.analysis.compare import average_precision, compare, run_hits
from ipg_jax.evaluation import evaluate_coco

BOX, FAR = (0, 0, 10, 10), (50, 50, 60, 60)


@hypothesis.given(st.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=15)
def test_a_draw_is_an_evaluation_of_its_images(seed):
    rng = np.random.default_rng(seed)

    def boxes(n):
        corner = rng.integers(0, 15, (n, 2))
        corners = np.concatenate([corner, corner + rng.integers(4, 12, (n, 2))], axis=1)
        return [tuple(box) for box in corners.tolist()]

    images = [
        [(box, int(rng.integers(3)), False) for box in boxes(4)] + [(FAR, k, True) for k in (1, 2)]
        for _ in range(3)
    ]
    images = [[(b, k, ignore or k == 2) for b, k, ignore in objects] for objects in images]
    scores = (rng.permutation(24) / 24).tolist()
    found = [
        detection(int(rng.integers(3)), box, int(rng.integers(2)), score)
        for box, score in zip([*boxes(20), *[FAR] * 4], scores, strict=True)
    ]
    draw = rng.multinomial(4, [0.5, 0.3, 0.2])
    values = average_precision(run_hits(ListedSource(*images), found), draw[None])[:, :, 0]

    # The same images side by side, whose twins have scores that differ by next to nothing.
    order = np.repeat(np.arange(3), draw).tolist()
    twins = [
        {**one, "image_id": place, "score": one["score"] - 1e-6 * place}
        for place, image in enumerate(order)
        for one in found
        if one["image_id"] == image
    ]
    expected = evaluate_coco(ListedSource(*(images[k] for k in order)), twins)["per_class"]
    for k, name in enumerate(("cat", "dog")):
        if expected[name]["AP"] is None:
            assert np.isnan(values[:, k]).all()
        else:
            # A find and its twin are one step of recall here and two there, but precision after the
            # second is no lower than after the first.
            assert values[:, k].mean() == pytest.approx(expected[name]["AP"], abs=1e-9)
            assert values[0, k] == pytest.approx(expected[name]["AP50"], abs=1e-9)


def scene():
    """Twenty images, of a cat each, and dogs in none."""
    return ListedSource(*([(BOX, 0)] for _ in range(20)))


def test_the_same_results_differ_by_nothing():
    found = [detection(k, BOX if k % 2 else FAR, 0, 0.5) for k in range(20)]
    hits = run_hits(scene(), found)
    both = compare(("cat", "dog"), [hits, hits], resamples=50)
    for name in ("AP", "AP50", "AP50/cat"):
        assert both.differences[name] == [(0, 0, 0)]
        assert both.figures[name][0].low < both.figures[name][0].value < both.figures[name][0].high
    assert both.figures["AP50/dog"] == [(None, None, None)] * 2


def test_what_is_found_in_every_image_is_better_whatever_is_drawn():
    every = run_hits(scene(), [detection(k, BOX, 0, 0.5) for k in range(20)])
    half = run_hits(scene(), [detection(k, BOX, 0, 0.5) for k in range(10)])
    found = compare(("cat", "dog"), [half, every], resamples=400)
    # Recall stops at 1/2: 51 of the 101 points.
    assert found.figures["AP50"][0].value == pytest.approx(51 / 101)
    assert found.figures["AP"][1] == (1, 1, 1)
    (difference,) = found.differences["AP"]
    assert difference.value == pytest.approx(50 / 101)
    # Images found of 20 drawn have a standard deviation of sqrt(20 / 4) = 2.2: 95 % are within 4.4,
    # which is 0.22 of 20.
    assert 0.2 < difference.low < 0.36
    assert 0.64 < difference.high < 0.8
    again = compare(("cat", "dog"), [half, every], resamples=400)
    assert again == found  # draws are the same every time


def test_pairs_tell_more_than_runs_alone():
    # Both runs fail in the same images, but for one: the interval of the difference is narrow.
    first = run_hits(scene(), [detection(k, BOX, 0, 0.5) for k in range(10)])
    second = run_hits(scene(), [detection(k, BOX, 0, 0.5) for k in range(11)])
    found = compare(("cat", "dog"), [first, second], resamples=400)
    (difference,) = found.differences["AP50"]
    alone = found.figures["AP50"][0]
    assert difference.high - difference.low < 0.5 * (alone.high - alone.low)
    assert difference.low >= 0


def test_empty():
    nothing = run_hits(ListedSource([]), [])
    found = compare(("cat", "dog"), [nothing, nothing], resamples=3)
    assert found.differences["AP"] == [(None, None, None)]
