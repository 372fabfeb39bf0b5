"""Time of COCO's metrics: ours beside pycocotools, faster-coco-eval and hotcoco.

    python benchmarks/coco_metrics.py [--images=5000]

A data set of the size of COCO's val2017, 80 classes and 100 detections an image, of which a third
lie near an object. faster-coco-eval and hotcoco are compared where they are installed; theirs and
pycocotools' times include reading the annotations, which ours has as arrays. Ends with code 1 if
one of the six figures of AP differs from pycocotools' by more than 1e-9.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import importlib.util
import io
import json
import pathlib
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from ipg_jax.evaluation import evaluate_coco

SIDE = 640
CLASSES = 80
DETECTIONS = 100
FIGURES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")


def data_set(images: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Returns annotations and results in COCO's formats."""
    rng = np.random.default_rng(0)
    annotations: list[dict[str, Any]] = []
    results = []
    for image in range(1, images + 1):
        count = rng.poisson(7.3)
        sizes = np.exp(rng.normal(4, 1, (count, 2))).clip(2, SIDE / 2)
        boxes = np.concatenate([rng.uniform(0, SIDE - sizes), sizes], axis=1).round(2)
        labels = 1 + rng.integers(CLASSES, size=count) ** 2 // CLASSES
        annotations += [
            {
                "id": len(annotations) + i,
                "image_id": image,
                "category_id": int(label),
                "bbox": box.tolist(),
                "area": float(box[2] * box[3]),
                "iscrowd": 0,
            }
            for i, (box, label) in enumerate(zip(boxes, labels, strict=True), start=1)
        ]
        sizes = np.exp(rng.normal(4, 1, (DETECTIONS, 2)))
        found = np.concatenate([rng.uniform(0, SIDE, (DETECTIONS, 2)), sizes], axis=1)
        classes = rng.integers(1, CLASSES + 1, DETECTIONS)
        if count:
            near = rng.random(DETECTIONS) < 1 / 3
            objects = rng.integers(count, size=DETECTIONS)[near]
            found[near] = boxes[objects] * rng.normal(1, 0.08, (near.sum(), 4))
            classes[near] = labels[objects]
        results += [
            {
                "image_id": image,
                "category_id": int(label),
                "bbox": np.abs(box).tolist(),
                "score": float(score),
            }
            for box, label, score in zip(found, classes, rng.random(DETECTIONS), strict=True)
        ]
    truth = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "width": SIDE, "height": SIDE}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class{i}"} for i in range(1, CLASSES + 1)],
    }
    return truth, results


def summary(coco: Any, evaluator: Any, file: str, results: list[dict[str, Any]]) -> list[float]:
    """AP by a library that has pycocotools' classes."""
    truth = coco(file)
    load = truth.load_res if hasattr(truth, "load_res") else truth.loadRes
    evaluation = evaluator(truth, load([dict(result) for result in results]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return list(evaluation.stats[: len(FIGURES)])


def ours(truth: dict[str, Any], results: list[dict[str, Any]]) -> list[float]:
    """AP by `ipg_jax.evaluation`, whose sources hold annotations as arrays."""
    rows = truth["annotations"]
    boxes = np.array([row["bbox"] for row in rows])
    counts = np.bincount([row["image_id"] for row in rows], minlength=1 + len(truth["images"]))
    records = types.SimpleNamespace(
        image_ids=[image["id"] for image in truth["images"]],
        sizes=np.full((len(truth["images"]), 2), SIDE),
        offsets=np.cumsum(counts),
        boxes=np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1),
        labels=np.array([row["category_id"] - 1 for row in rows]),
        ignore=np.zeros(len(rows), bool),
        area=np.array([row["area"] for row in rows]),
    )
    data = types.SimpleNamespace(
        class_names=[category["name"] for category in truth["categories"]],
        category_ids=[category["id"] for category in truth["categories"]],
        records=records,
    )
    metrics = evaluate_coco(data, results)
    return [metrics[figure] for figure in FIGURES]


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    truth, results = data_set(parser.parse_args().images)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "truth.json"
        file.write_text(json.dumps(truth))
        libraries = {
            "pycocotools": ("pycocotools.coco", "pycocotools.cocoeval", "COCOeval"),
            "faster_coco_eval": ("faster_coco_eval", "faster_coco_eval", "COCOeval_faster"),
            "hotcoco": ("hotcoco", "hotcoco", "COCOeval"),
        }
        sides: dict[str, Callable[[], list[float]]] = {}
        for name, (data, metrics, evaluator) in libraries.items():
            if importlib.util.find_spec(name) is not None:
                coco = importlib.import_module(data).COCO
                by = getattr(importlib.import_module(metrics), evaluator)
                sides[name] = functools.partial(summary, coco, by, str(file), results)
        sides["ipg_jax"] = functools.partial(ours, truth, results)
        expected: list[float] = []
        first = 0.0
        print(f"{len(truth['annotations'])} objects, {len(results)} detections")
        for name, side in sides.items():
            begun = time.perf_counter()
            with contextlib.redirect_stdout(io.StringIO()):
                found = side()
            seconds = time.perf_counter() - begun
            expected, first = expected or found, first or seconds
            difference = float(np.abs(np.subtract(found, expected)).max())
            print(
                f"{name:18}{seconds:8.1f} s{seconds / first:8.3f} x  AP differs by {difference:.1e}"
            )
            if difference > 1e-9:
                sys.exit(1)


if __name__ == "__main__":
    main()
