"""VisDrone's metrics against its toolkit, a slow twin of it and values worked out by hand."""

import json
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax.evaluation import evaluate_visdrone

A, B, C = (10, 10, 30, 30), (50, 50, 70, 70), (100, 100, 120, 120)
LIMITS = (1, 10, 100, 500)
GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


def covered_pixels(region_map, xywh):
    """Share of a box that the map's pixels cover, by sums over rectangles as the toolkit has."""
    height, width = region_map.shape
    x, y, w, h = np.maximum(1, np.floor(np.array(xywh) + 0.5)).astype(int)
    x, y = min(x, width), min(y, height)
    # Pixels are counted from 1, and those behind the first are the box's.
    return region_map[y : min(height, y + h), x : min(width, x + w)].sum() / (w * h)


def slow_visdrone(ground_truth, results):
    """The toolkit's steps, one box after another."""
    records, classes = ground_truth.records, len(ground_truth.class_names)
    per_image = []
    for i, name in enumerate(records.image_ids):
        rows = range(records.offsets[i], records.offsets[i + 1])
        truth = [
            (*records.boxes[r][:2], *(records.boxes[r][2:] - records.boxes[r][:2])) for r in rows
        ]
        labels = [int(records.labels[r]) for r in rows]
        flags = [bool(records.ignore[r]) for r in rows]
        region_map = np.zeros(records.sizes[i], bool)
        for (x, y, w, h), k in zip(truth, labels, strict=True):
            if k == classes:
                x, y, w, h = (int(max(1, v)) for v in (x, y, w, h))
                region_map[y - 1 : y + h, x - 1 : x + w] = True
        objects = [
            (box, k, flag)
            for box, k, flag in zip(truth, labels, flags, strict=True)
            if k < classes and covered_pixels(region_map, box) < 0.5
        ]
        found = [r for r in results if r["image_id"] == name]
        found = [r for r in found if covered_pixels(region_map, r["bbox"]) < 0.5]
        per_image.append((objects, sorted(found, key=lambda r: -r["score"])))

    thresholds = np.linspace(0.5, 0.95, 10)
    ap, ar = np.zeros((classes, 10)), np.zeros((classes, 10, 4))
    shown = [
        k
        for k in range(classes)
        for objects, _ in per_image
        if any(label == k and not flag for _, label, flag in objects)
    ]
    for k in range(classes):
        for t, threshold in enumerate(thresholds):
            for m, limit in enumerate(LIMITS):
                outcomes, total = [], 0
                for objects, found in per_image:
                    mine = sorted(
                        ((box, flag) for box, label, flag in objects if label == k),
                        key=lambda pair: pair[1],
                    )
                    total += sum(not flag for _, flag in mine)
                    taken = set()
                    for r in found[:limit]:
                        if r["category_id"] != ground_truth.category_ids[k]:
                            continue
                        best, choice = threshold, None
                        for j, (box, flag) in enumerate(mine):
                            if j in taken:
                                continue
                            if choice is not None and flag:
                                break
                            overlap = slow_overlap(r["bbox"], box, flag)
                            if overlap >= best:
                                best, choice = overlap, j
                        if choice is None:
                            outcomes.append((r["score"], 0))
                        elif not mine[choice][1]:
                            taken.add(choice)
                            outcomes.append((r["score"], 1))
                outcomes.sort(key=lambda pair: -pair[0])
                hits = np.cumsum([hit for _, hit in outcomes])
                ar[k, t, m] = max(hits, default=0) / max(1, total)
            precision = hits / np.arange(1, len(hits) + 1)
            recall = hits / max(1, total)
            for j in range(len(hits)):
                step = recall[j] - (recall[j - 1] if j else 0)
                ap[k, t] += step * max(precision[j:])
    if not shown:
        return {}
    return {
        "AP": ap[shown].mean(),
        "AP50": ap[shown, 0].mean(),
        "AP75": ap[shown, 5].mean(),
        **{f"AR{limit}": ar[shown, :, m].mean() for m, limit in enumerate(LIMITS)},
    }


def slow_overlap(a, b, ignored):
    sides = [min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in range(2)]
    common = max(sides[0], 0) * max(sides[1], 0)
    return common / (a[2] * a[3] if ignored else a[2] * a[3] + b[2] * b[3] - common)


def test_equals_the_toolkit_itself(make_ground_truth, make_results):
    golden = json.loads((GOLDEN / "visdrone.json").read_text())
    for case in golden["cases"]:
        images, found = [], []
        for i, image in enumerate(case["images"]):
            rows = [((x, y, x + w, y + h), label) for x, y, w, h, label in image["objects"]]
            images.append(rows)
            for x, y, w, h in image["regions"]:
                rows.append(((x, y, x + w, y + h), golden["classes"], True))
            for x, y, w, h, label, score in image["found"]:
                found.append((i, (x, y, x + w, y + h), label, score))
        truth = make_ground_truth(
            *images,
            size=tuple(golden["size"]),
            class_names=tuple(f"class {k}" for k in range(golden["classes"])),
        )
        metrics = evaluate_visdrone(truth, make_results(truth, *found))
        assert case["figures"]["AP"] > 0.1
        figures = {name: metrics[name] for name in case["figures"]}
        assert figures == pytest.approx(case["figures"], abs=1e-9)


@given(seed=st.integers(0, 10_000))
def test_equals_the_slow_twin(random_case, make_ground_truth, seed):
    truth, results = random_case(seed)
    rng = np.random.default_rng(seed)
    records, classes = truth.records, len(truth.class_names)
    images = []
    for i in range(len(records.image_ids)):
        rows = range(records.offsets[i], records.offsets[i + 1])
        images.append([(records.boxes[r], records.labels[r], records.ignore[r]) for r in rows])
        for _ in range(rng.integers(3)):
            corner, sides = rng.integers(0, 150, 2), rng.integers(1, 100, 2)
            images[-1].append(((*corner, *(corner + sides)), classes, True))
    truth = make_ground_truth(
        *images, image_ids=records.image_ids, class_names=truth.class_names, size=(180, 190)
    )
    expected = slow_visdrone(truth, results)
    metrics = evaluate_visdrone(truth, results)
    names = metrics.keys() - {"per_class"}
    assert {name: metrics[name] for name in names} == pytest.approx(
        expected or dict.fromkeys(names)
    )


def test_a_class_weighs_as_much_as_the_images_that_show_it(make_ground_truth, make_results):
    truth = make_ground_truth([(A, 0)], [(A, 0)], [(A, 0), (B, 1)])
    found = make_results(truth, *((i, A, 0, 0.9) for i in range(3)))  # all cats and no dog
    metrics = evaluate_visdrone(truth, found)
    assert metrics["AP"] == pytest.approx((3 * 1.0 + 1 * 0.0) / 4)
    assert [metrics["per_class"][k]["AP"] for k in ("cat", "dog")] == [1.0, 0.0]


def test_a_limit_is_one_of_the_image_and_not_of_a_class(make_ground_truth, make_results):
    truth = make_ground_truth([(A, 0), (B, 1)])
    found = make_results(truth, (0, A, 0, 0.9), (0, B, 1, 0.8))
    metrics = evaluate_visdrone(truth, found)
    # The best detection is the cat: recall 1 of cats and 0 of dogs; COCO's AR1 would be 1.
    assert (metrics["AR1"], metrics["AR10"]) == (0.5, 1.0)
    assert evaluate_visdrone(truth, found, max_detections=(1,))["AP"] == 0.5


def test_what_lies_in_an_ignored_region_by_half_is_dropped(make_ground_truth, make_results):
    # In the toolkit's count from 1, the region has the columns 100 to 140. A box from 88 on has the
    # 20 columns 89 to 108, of which 9 are in it; one from 89 on has 90 to 109, of which 10 are.
    region = (100, 100, 140, 140)
    for left, kept in ((88, True), (89, False)):
        box = (left, 100, left + 20, 120)
        truth = make_ground_truth([(A, 0), (box, 0), (region, 2, True)])
        metrics = evaluate_visdrone(truth, make_results(truth, (0, A, 0, 0.9)))
        assert metrics["per_class"]["cat"]["objects"] == 1 + kept
        assert metrics["AR500"] == (0.5 if kept else 1.0)
        truth = make_ground_truth([(A, 0), (region, 2, True)])
        found = make_results(truth, (0, box, 0, 0.9), (0, A, 0, 0.8))
        assert evaluate_visdrone(truth, found)["AP"] == (0.5 if kept else 1.0)


def test_an_ignored_object_is_not_asked_for_and_forgives(make_ground_truth, make_results):
    truth = make_ground_truth([(A, 0), (B, 0, True)])
    found = make_results(truth, (0, B, 0, 0.9), (0, (55, 55, 60, 60), 0, 0.8), (0, A, 0, 0.7))
    metrics = evaluate_visdrone(truth, found)
    assert metrics["AP"] == metrics["AR500"] == 1.0
    assert metrics["per_class"]["cat"]["objects"] == 1


def test_the_curve_is_integrated_at_all_recalls(make_ground_truth, make_results):
    truth = make_ground_truth([(A, 0), (B, 0)], [(C, 0)])
    # Hit, miss, hit of three: COCO's 101 recalls would give 0.5578.
    found = make_results(truth, (0, A, 0, 0.9), (1, A, 0, 0.8), (1, C, 0, 0.7))
    assert evaluate_visdrone(truth, found)["AP"] == pytest.approx(1 / 3 * 1 + 1 / 3 * 2 / 3)


def test_nothing_found_is_zero_and_no_object_is_none(make_ground_truth):
    metrics = evaluate_visdrone(make_ground_truth([(A, 0)], []), [])
    assert (metrics["AP"], metrics["AR500"]) == (0.0, 0.0)
    dog = {"objects": 0, "AP": None, "AP50": None, "AP75": None, "AR500": None}
    assert metrics["per_class"]["dog"] == dog
    empty = evaluate_visdrone(make_ground_truth([]), [])
    assert (empty["AP"], empty["AR1"]) == (None, None)


@pytest.mark.parametrize("limits", [(), (10, 1), (0, 1)])
def test_limits_must_ascend(make_ground_truth, limits):
    with pytest.raises(ValueError, match="ascend"):
        evaluate_visdrone(make_ground_truth([]), [], max_detections=limits)
