"""Writes `tide.json` in this folder: errors and their costs by TIDE itself, tidecv 1.0.1.

    pip install tidecv==1.0.1 && python tests/golden/make_tide.py

In an environment of its own: tidecv brings OpenCV, Pandas and Seaborn along. The test reads the
file. Inputs are stored beside outputs; scores differ, for tidecv has no rule for equal ones. There
is nothing to ignore: this release takes detections that are ignored for errors, which later commits
of its repository (https://github.com/dbolya/tide) do not.
"""

import importlib.metadata
import json
import pathlib

import numpy as np
from tidecv import TIDE, Data

CLASSES = 4
NAMES = {
    "Cls": "classification",
    "Loc": "localisation",
    "Both": "both",
    "Dupe": "duplicate",
    "Bkg": "background",
    "Miss": "missed",
}


def scene(rng):
    """Objects within 100 pixels, and what a poor detector makes of them."""
    corner = rng.uniform(0, 65, (rng.integers(0, 9), 2))
    truth = np.concatenate([corner, rng.uniform(5, 30, corner.shape)], axis=1)
    labels = rng.integers(0, CLASSES, len(truth))
    near = rng.integers(0, len(truth), 2 * len(truth)) if len(truth) else np.zeros(0, int)
    found = truth[near] + rng.normal(0, 1, (len(near), 4)) * rng.choice([0.5, 4], (len(near), 1))
    found = np.concatenate([found, rng.uniform(5, 60, (3, 4))])
    guess = np.where(rng.random(len(near)) < 0.7, labels[near], rng.integers(0, CLASSES, len(near)))
    guess = np.concatenate([guess, rng.integers(0, CLASSES, 3)])
    found[:, 2:] = np.maximum(found[:, 2:], 2)
    objects = [
        {"box": box.round(2).tolist(), "label": int(label)}
        for box, label in zip(truth, labels, strict=True)
    ]
    detections = [
        {"box": box.round(2).tolist(), "label": int(label), "score": rng.uniform()}
        for box, label in zip(found, guess, strict=True)
    ]
    return {"objects": objects, "detections": detections}


def figures(scenes):
    """What TIDE says of some scenes."""
    truth, found = Data("truth"), Data("found", max_dets=10_000)
    for label in range(CLASSES):
        truth.add_class(label, str(label))
    for number, one in enumerate(scenes):
        truth.add_image(number, str(number))
        for row in one["objects"]:
            truth.add_ground_truth(number, row["label"], row["box"])
        for row in one["detections"]:
            found.add_detection(number, row["label"], row["score"], row["box"])
    tide = TIDE()
    run = tide.evaluate(truth, found, mode=TIDE.BOX)
    main, special = tide.get_main_errors()["found"], tide.get_special_errors()["found"]
    counts = {kind.short_name: n for kind, n in run.count_errors().items()}
    return {
        "ap50": run.ap / 100,
        "counts": {NAMES[key]: n for key, n in counts.items()},
        "cost": {NAMES[key]: value / 100 for key, value in main.items()},
        "false_positives": special["FalsePos"] / 100,
        "false_negatives": special["FalseNeg"] / 100,
    }


def main():
    assert importlib.metadata.version("tidecv") == "1.0.1"
    rng = np.random.default_rng(0)
    cases = []
    for images in (5, 10, 30):  # enough for objects of each class, or it would be one of AP 0
        scenes = [scene(rng) for _ in range(images)]
        cases.append({"scenes": scenes, "expected": figures(scenes)})
    path = pathlib.Path(__file__).with_name("tide.json")
    path.write_text(json.dumps(cases) + "\n")


if __name__ == "__main__":
    main()
