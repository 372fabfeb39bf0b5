"""Writes `tests/golden/detectors.npz`: what torchvision's whole models give.

That is losses and detections of its detectors, and features of its backbones.

    python tests/parity/make_detectors.py

Needs the `parity` extra (torch and torchvision, no JAX), and is rerun only to add a case. Weights,
pictures and ground truth are those of `detector_weights.py`; only names and shapes of the weights
and the results are stored. `whole_detectors.py` runs it with `--batches` for other pictures.
"""

import argparse
import itertools
import json
import pathlib

import numpy as np
import torch
import torchvision
from detector_weights import make_batch, make_state
from torchvision.models import detection
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.ops import FrozenBatchNorm2d

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
DETECTORS = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
)
STAGES = {  # of backbones: the modules whose outputs are c2 to c5
    "resnet50": ("layer1", "layer2", "layer3", "layer4"),
    "convnext_tiny": ("features.1", "features.3", "features.5", "features.7"),
}
# Samples so large that all anchors and proposals are taken, whatever the random numbers; few
# proposals, so that the box heads do not take minutes.
TWO_STAGE = {
    "rpn_batch_size_per_image": 1_000_000,
    "box_batch_size_per_image": 1_000_000,
    "rpn_post_nms_top_n_train": 100,
    "rpn_post_nms_top_n_test": 100,
}


def make_detector(name):
    """Returns a detector with the made weights, and their names and shapes."""
    kwargs = TWO_STAGE if name.startswith("faster") else {}
    model = getattr(detection, name)(weights=None, weights_backbone=None, **kwargs)
    if not name.endswith("v2"):
        freeze_norms(model)
    model.transform.resize = lambda image, target: (image, target)
    return model, load(model)


def freeze_norms(module):
    """Replaces batch norms by frozen ones, as torchvision's first models have once trained."""
    for name, child in module.named_children():
        if isinstance(child, torch.nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm2d(child.num_features))
        else:
            freeze_norms(child)


def load(model):
    """Fills a model with the made weights; returns their names and shapes."""
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    state = {name: torch.tensor(value) for name, value in make_state(shapes).items()}
    model.load_state_dict(state)
    return shapes


def images_of(batch):
    """Returns the content of a batch's pictures as torchvision takes it."""
    pairs = zip(batch["images"], batch["image_size"], strict=True)
    return [torch.tensor(image[:h, :w]).permute(2, 0, 1) / 255 for image, (h, w) in pairs]


@torch.no_grad()
def run(model, batch):
    """Returns losses, and detections `[images, 300, ...]` padded with scores of 0."""
    images = images_of(batch)
    targets = [
        {"boxes": torch.tensor(boxes[ids > 0]), "labels": torch.tensor(ids[ids > 0]).long()}
        for boxes, ids in zip(batch["boxes"], batch["category_ids"], strict=True)
    ]
    results = {name: value.numpy() for name, value in model.train()(images, targets).items()}
    load(model)  # the running statistics have moved
    results |= {
        "boxes": np.zeros((len(images), 300, 4), np.float32),
        "scores": np.zeros((len(images), 300), np.float32),
        "category_ids": np.zeros((len(images), 300), np.int32),
    }
    for row, found in enumerate(model.eval()(images)):
        count = len(found["scores"])
        results["boxes"][row, :count] = found["boxes"].numpy()
        results["scores"][row, :count] = found["scores"].numpy()
        results["category_ids"][row, :count] = found["labels"].numpy()
    return results


@torch.no_grad()
def run_backbone(name, batch):
    """Returns every 64th channel of the stages for the first picture, and the weights' shapes."""
    model = getattr(torchvision.models, name)(weights=None)
    shapes = load(model)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
    outputs = create_feature_extractor(model.eval(), list(STAGES[name]))(
        (images_of(batch)[0][None] - mean) / std
    )
    return shapes, {
        f"c{i}": outputs[stage][0, ::64].permute(1, 2, 0).numpy()
        for i, stage in enumerate(STAGES[name], start=2)
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", help="npz of other batches, arrays <number>/<name of array>")
    parser.add_argument("--out", default=GOLDEN / "detectors.npz")
    arguments = parser.parse_args()

    if arguments.batches:
        stored = np.load(arguments.batches)
        batches = {
            f"/{number}": {key.partition("/")[2]: stored[key] for key in keys}
            for number, keys in itertools.groupby(stored, lambda key: key.partition("/")[0])
        }
    else:
        batches = {"": make_batch()}

    shapes, arrays = {}, {}
    for name in DETECTORS:
        model, shapes[name] = make_detector(name)
        for number, batch in batches.items():
            results = run(model, batch)
            arrays |= {f"{name}{number}/{key}": value for key, value in results.items()}
            values = {key: float(value) for key, value in results.items() if value.ndim == 0}
            print(name, values, "detections", (results["scores"] > 0).sum(1).tolist())
    if not arguments.batches:
        for name in STAGES:
            shapes[name], stages = run_backbone(name, make_batch())
            arrays |= {f"{name}/{key}": value for key, value in stages.items()}
        shapes["convnext_small"] = load(torchvision.models.convnext_small(weights=None))
    np.savez_compressed(arguments.out, shapes=np.array(json.dumps(shapes)), **arrays)


if __name__ == "__main__":
    main()
