"""Writes `sahi.npz` in this folder: boxes merged and images cut by SAHI 0.12.8.

    pip install sahi==0.12.8 && python tests/golden/make_sahi.py

In an environment of its own: SAHI brings OpenCV, Shapely and Matplotlib along, 400 MB in all. Rerun
only to add a case: the tests read the file. Inputs are stored beside outputs.
"""

import importlib.metadata
import itertools
import pathlib

import numpy as np
from sahi.postprocess.backends import set_postprocess_backend
from sahi.postprocess.combine import GreedyNMMPostprocess, NMSPostprocess
from sahi.prediction import ObjectPrediction
from sahi.slicing import get_slice_bboxes

METHODS = {"nms": NMSPostprocess, "greedy_nmm": GreedyNMMPostprocess}


def clusters(rng, n):
    """Boxes around a few objects each, so that chains of overlaps come about."""
    centre = rng.uniform(30, 170, (n // 8, 2))[rng.integers(0, n // 8, n)]
    centre += rng.normal(0, 8, (n, 2))
    half = rng.uniform(2, 20, (n, 2))
    return np.concatenate([centre - half, centre + half], 1).clip(0, 200)


def grid(rng, n):
    """Boxes with whole-number corners, which give equal boxes and overlaps of just a threshold."""
    corner = rng.integers(0, 24, (n, 2))
    return np.concatenate([corner, corner + rng.integers(1, 9, (n, 2))], 1)


def main():
    assert importlib.metadata.version("sahi") == "0.12.8"
    set_postprocess_backend("numpy")
    rng = np.random.default_rng(0)
    arrays = {}
    for case, (make, n, levels) in enumerate(
        [(clusters, 120, 2**20), (clusters, 120, 4), (grid, 120, 4), (grid, 60, 1), (grid, 1, 1)]
    ):
        boxes = make(rng, n).astype(np.float32)
        scores = ((1 + rng.integers(0, levels, n)) / levels).astype(np.float32)  # equal ones, too
        labels = rng.integers(0, 2, n)
        arrays |= {f"{case}/boxes": boxes, f"{case}/scores": scores, f"{case}/labels": labels}
        for (method, merge), metric, threshold in itertools.product(
            METHODS.items(), ("IOU", "IOS"), (0.25, 0.5, 0.8)
        ):
            found = [
                ObjectPrediction(bbox=box, score=score, category_id=label, category_name=str(label))
                for box, score, label in zip(
                    boxes.tolist(), scores.tolist(), labels.tolist(), strict=True
                )
            ]
            best = merge(match_threshold=threshold, match_metric=metric, class_agnostic=False)(
                found
            )
            arrays[f"{case}/{method}/{metric.lower()}/{threshold}"] = np.array(
                [[*x.bbox.to_xyxy(), x.score.value, x.category.id] for x in best]
            )
    # Height and width of the image, height and width of a tile, overlap.
    for case in [
        (512, 640, 512, 512, 0.2),
        (1000, 700, 256, 200, 0.25),
        (300, 300, 100, 100, 0.0),
        (301, 299, 100, 150, 0.5),
        (90, 450, 100, 100, 0.3),
        (80, 70, 100, 100, 0.3),
    ]:
        windows = get_slice_bboxes(*case[:4], False, *case[4:] * 2)
        arrays["tiles/" + "/".join(map(str, case))] = windows
    np.savez_compressed(pathlib.Path(__file__).parent / "sahi.npz", **arrays)


if __name__ == "__main__":
    main()
