"""Metrics of many detections an image, against pycocotools with the same settings."""

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ipg_jax.evaluation import METRICS, evaluate, evaluate_coco, evaluate_visdrone, evaluate_voc


def by_pycocotools(ground_truth, results, limits, area_ranges):
    """AP by size, and AR by limit, from the arrays of `accumulate`: `summarize` wants COCO's."""
    records = ground_truth.records
    image = np.repeat(records.image_ids, np.diff(records.offsets))
    truth, found = COCO(), COCO()
    images = [{"id": name} for name in records.image_ids]
    categories = [{"id": name} for name in ground_truth.category_ids]
    truth.dataset = {
        "images": images,
        "categories": categories,
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(image[i]),
                "category_id": ground_truth.category_ids[records.labels[i]],
                "bbox": [float(v) for v in (x0, y0, x1 - x0, y1 - y0)],
                "area": float(records.area[i]),
                "iscrowd": int(records.ignore[i]),
            }
            for i, (x0, y0, x1, y1) in enumerate(records.boxes)
        ],
    }
    found.dataset = {
        "images": images,
        "categories": categories,
        "annotations": [
            {**r, "id": i + 1, "area": r["bbox"][2] * r["bbox"][3], "iscrowd": 0}
            for i, r in enumerate(results)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        found.createIndex()
        evaluator = COCOeval(truth, found, "bbox")
        evaluator.params.maxDets = list(limits)
        evaluator.params.areaRng = [(0, 1e10), *area_ranges.values()]
        evaluator.params.areaRngLbl = ["all", *area_ranges]
        evaluator.evaluate()
        evaluator.accumulate()
    precision, recall = evaluator.eval["precision"][..., -1], evaluator.eval["recall"]

    def mean(values):
        return values[values > -1].mean()

    figures = {"AP": precision[..., 0], "AP50": precision[0, ..., 0], "AP75": precision[5, ..., 0]}
    figures |= {f"AP_{name}": precision[..., i] for i, name in enumerate(area_ranges, start=1)}
    figures |= {f"AR{limit}": recall[:, :, 0, m] for m, limit in enumerate(limits)}
    figures |= {f"AR_{name}": recall[:, :, i, -1] for i, name in enumerate(area_ranges, start=1)}
    return {name: mean(values) for name, values in figures.items()}


@pytest.fixture(scope="module")
def dense(make_ground_truth, make_results):
    """Two images of 2,500 detections around tiny objects: of one class, and of two."""
    rng = np.random.default_rng(0)
    images, found = [], []
    for i, (objects, classes) in enumerate([(12, 1), (40, 2)]):
        corners, sides = rng.uniform(0, 150, (objects, 2)), rng.uniform(2, 40, (objects, 2))
        boxes = np.concatenate([corners, corners + sides], axis=1)
        labels = rng.integers(classes, size=objects)
        images.append([(b, k, rng.random() < 0.1) for b, k in zip(boxes, labels, strict=True)])
        near = rng.integers(objects, size=2500)
        moved = boxes[near] + rng.normal(0, 1.5, (2500, 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        scores = rng.integers(1, 500, 2500) / 500  # equal ones among them
        rows = zip(moved.tolist(), labels[near].tolist(), scores.tolist(), strict=True)
        found += [(i, *row) for row in rows]
    truth = make_ground_truth(*images)
    return truth, make_results(truth, *found)


@pytest.mark.parametrize("limit", [1500, 2500])
def test_2500_detections_an_image_give_what_pycocotools_gives(dense, limit):
    metrics = evaluate("aitod", *dense, max_detections=limit)
    limits = (1, 100, 1500, 2500)[: 3 if limit == 1500 else 4]
    sizes = {"vt": (0, 64), "t": (64, 256), "s": (256, 1024), "m": (1024, 1e10)}
    expected = by_pycocotools(*dense, limits, sizes)
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert metrics.keys() == expected.keys() | {"per_class"}
    assert 0.1 < metrics["AP_t"] < metrics["AP_m"] < 0.9


def test_a_metric_keeps_its_own_limits_below_the_last(dense):
    assert METRICS["coco"].limits_to(100) == (1, 10, 100)
    assert METRICS["coco"].limits_to(300) == (1, 10, 100, 300)
    assert METRICS["visdrone"].limits_to(50) == (1, 10, 50)
    assert METRICS["aitod"].limits_to(1) == (1,)
    assert evaluate("coco", *dense, max_detections=300) == evaluate_coco(
        *dense, max_detections=(1, 10, 100, 300)
    )


def test_a_metric_by_name_is_its_function(dense):
    found = {name: evaluate(name, *dense, max_detections=40) for name in ("voc", "visdrone")}
    assert found["voc"] == evaluate_voc(*dense)
    assert found["visdrone"] == evaluate_visdrone(*dense, max_detections=(1, 10, 40))


def test_size_classes_can_be_others(dense):
    metrics = evaluate("aitod", *dense, max_detections=10, area_ranges={"all_tiny": (0.0, 256.0)})
    assert "AP_all_tiny" in metrics
    assert "AP_vt" not in metrics
