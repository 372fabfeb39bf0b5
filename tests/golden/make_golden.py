"""Writes the reference values in this folder, from torchvision's detection operators.

    python tests/golden/make_golden.py

Needs the `parity` extra (torch and torchvision, no JAX), and is rerun only to add a case: the
tests read the `.npz` files. Inputs are stored beside outputs, float32.
"""

import pathlib

import numpy as np
import torch
import torchvision
from torchvision.models.detection import _utils, anchor_utils
from torchvision.models.detection.image_list import ImageList

HERE = pathlib.Path(__file__).parent


def save(name, **arrays):
    arrays = {
        key: value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        for key, value in arrays.items()
    }
    np.savez_compressed(HERE / f"{name}.npz", **arrays)


def random_boxes(rng, n, extent, low, high):
    center = rng.uniform(0, extent, (n, 2))
    half = np.exp(rng.uniform(np.log(low), np.log(high), (n, 2))) / 2
    return torch.tensor(np.concatenate([center - half, center + half], 1), dtype=torch.float32)


def grid_boxes(rng, n, extent, high):
    """Boxes with whole-number corners, which give equal overlaps and equal scores."""
    corner = rng.integers(0, extent, (n, 2))
    size = rng.integers(1, high, (n, 2))
    return torch.tensor(np.concatenate([corner, corner + size], 1), dtype=torch.float32)


def boxes(rng):
    a, b = random_boxes(rng, 30, 100, 5, 80), random_boxes(rng, 20, 100, 5, 80)
    save(
        "boxes",
        a=a,
        b=b,
        area=torchvision.ops.box_area(a),
        iou=torchvision.ops.box_iou(a, b),
        image_size=np.int32([70, 90]),
        clipped=torchvision.ops.clip_boxes_to_image(a, (70, 90)),
    )


def box_coder(rng):
    anchors, targets = random_boxes(rng, 40, 500, 4, 300), random_boxes(rng, 40, 500, 4, 300)
    deltas = torch.tensor(rng.normal(0, 3, (40, 4)), dtype=torch.float32)
    weights = np.float32([[1, 1, 1, 1], [10, 10, 5, 5]])
    coders = [_utils.BoxCoder(tuple(row.tolist())) for row in weights]
    save(
        "box_coder",
        anchors=anchors,
        boxes=targets,
        deltas=deltas,
        weights=weights,
        encoded=torch.stack([coder.encode_single(targets, anchors) for coder in coders]),
        decoded=torch.stack([coder.decode_single(deltas, anchors) for coder in coders]),
    )


def anchors(rng):
    del rng
    # Levels 3..7 of an image whose size is a multiple of 32 but not of the coarser strides.
    height, width = 96, 160
    shapes = [(-(-height // 2**level), -(-width // 2**level)) for level in range(3, 8)]
    sizes = tuple(
        (x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (32, 64, 128, 256, 512)
    )
    generator = anchor_utils.AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, height, width), [(height, width)])
    (every,) = generator(images, [torch.zeros(1, 1, *shape) for shape in shapes])
    save(
        "anchors",
        feature_shapes=np.int32(shapes),
        strides=np.int32([(height // h, width // w) for h, w in shapes]),
        sizes=np.int32(sizes),
        base=torch.stack(generator.cell_anchors),
        anchors=every,
    )


def matching(rng):
    # Anchors on a grid and boxes with whole-number corners tie often, the case worth pinning.
    generator = anchor_utils.AnchorGenerator(((8, 12, 20),), ((0.5, 1.0, 2.0),))
    (candidates,) = generator.grid_anchors([[12, 12]], [[torch.tensor(4), torch.tensor(4)]])
    special = torch.tensor([[8.0, 8, 16, 16], [8, 8, 16, 16], [21, 21, 23, 22], [29, 5, 32, 8]])
    targets = torch.cat([grid_boxes(rng, 10, 36, 24), special])
    iou = torchvision.ops.box_iou(targets, candidates)
    settings = np.float32([[0.5, 0.4], [0.7, 0.3], [0.5, 0.5]])
    low_quality = np.array([True, True, False])
    matches = [
        _utils.Matcher(float(high), float(low), bool(allow))(iou)
        for (high, low), allow in zip(settings, low_quality, strict=True)
    ]
    save(
        "matching",
        anchors=candidates,
        boxes=targets,
        thresholds=settings,
        low_quality=low_quality,
        index=iou.max(0)[1],
        matches=torch.stack(matches),  # -1 below the thresholds, -2 between them
    )


def nms(rng):
    # Whole-number corners and one-decimal scores: ties of both kinds, and exact class offsets.
    points = grid_boxes(rng, 200, 60, 30)
    chain = torch.tensor([[600 + 3.0 * i, 0, 607 + 3.0 * i, 10] for i in range(12)])
    candidates = torch.cat([points, chain])
    scores = torch.tensor(
        np.concatenate([rng.integers(1, 9, 200) / 10, np.linspace(0.9, 0.1, 12)]),
        dtype=torch.float32,
    )
    labels = torch.tensor(np.concatenate([rng.integers(0, 4, 200), np.zeros(12)]).astype(int))
    thresholds = (0.25, 0.5, 0.75)
    arrays = {}
    for i, threshold in enumerate(thresholds):
        arrays[f"keep_{i}"] = torchvision.ops.nms(candidates, scores, threshold)
        arrays[f"batched_keep_{i}"] = torchvision.ops.batched_nms(
            candidates, scores, labels, threshold
        )
    save(
        "nms",
        boxes=candidates,
        scores=scores,
        labels=labels,
        thresholds=np.array(thresholds),
        **arrays,
    )


def losses(rng):
    logits = torch.tensor(rng.normal(0, 4, (40, 7)), dtype=torch.float32, requires_grad=True)
    labels = torch.tensor(rng.integers(0, 8, 40))
    targets = torch.nn.functional.one_hot(labels, 8)[:, :7].float()
    focal_settings = np.float32([[0.25, 2], [0.5, 0], [0.75, 1.5]])
    focal = [
        torchvision.ops.sigmoid_focal_loss(logits, targets, float(alpha), float(gamma))
        for alpha, gamma in focal_settings
    ]
    (focal_gradient,) = torch.autograd.grad(focal[0].sum(), logits)
    predictions, references = (
        torch.tensor(rng.normal(0, 1, 50), dtype=torch.float32) for _ in range(2)
    )
    betas = np.float32([1, 0.25, 1 / 9])
    boxes = torch.cat([random_boxes(rng, 20, 60, 5, 40), torch.tensor([[5.0, 5, 5, 5]])])
    boxes.requires_grad_()
    other = torch.cat([random_boxes(rng, 20, 60, 5, 40), torch.tensor([[9.0, 2, 15, 8]])])
    giou = torchvision.ops.generalized_box_iou_loss(boxes, other)
    (giou_gradient,) = torch.autograd.grad(giou[:20].sum(), boxes)
    save(
        "losses",
        logits=logits,
        labels=labels,
        targets=targets,
        focal_settings=focal_settings,
        focal=torch.stack(focal),
        focal_gradient=focal_gradient,
        predictions=predictions,
        references=references,
        betas=betas,
        l1=torch.nn.functional.l1_loss(predictions, references, reduction="none"),
        smooth_l1=torch.stack(
            [
                torch.nn.functional.smooth_l1_loss(
                    predictions, references, reduction="none", beta=float(beta)
                )
                for beta in betas
            ]
        ),
        boxes=boxes,
        other=other,
        giou=giou,
        giou_gradient=giou_gradient[:20],
    )


def roi_align(rng):
    features = torch.tensor(
        rng.normal(size=(1, 3, 13, 17)), dtype=torch.float32, requires_grad=True
    )
    inside = random_boxes(rng, 12, 100, 5, 90)
    # Over the border, far outside, without extent, smaller than a cell, larger than the map.
    edge = torch.tensor(
        [
            [-30.0, -20, 20, 30],
            [110, 80, 160, 130],
            [-90, -90, -60, -60],
            [300, 300, 340, 350],
            [40, 40, 40, 40],
            [50, 50, 52, 51],
            [-50, -50, 300, 300],
        ]
    )
    rois = torch.cat([inside, edge])
    cotangent = torch.tensor(rng.normal(size=(len(rois), 3, 3, 2)), dtype=torch.float32)
    arrays = {}
    for aligned in (False, True):
        for ratio in (1, 2, 3):
            out = torchvision.ops.roi_align(features, [rois], (3, 2), 1 / 8, ratio, aligned)
            arrays[f"pooled_{aligned}_{ratio}"] = out.permute(0, 2, 3, 1)
            (gradient,) = torch.autograd.grad((out * cotangent).sum(), features)
            arrays[f"gradient_{aligned}_{ratio}"] = gradient[0].permute(1, 2, 0)

    strides = (4, 8, 16, 32)
    pyramid = {
        f"level_{i}": torch.tensor(
            rng.normal(size=(1, 2, 128 // stride, 160 // stride)), dtype=torch.float32
        )
        for i, stride in enumerate(strides)
    }
    # A canonical size small enough that all levels are used, boxes exactly on it among them.
    exact = torch.tensor([[10.0, 10, 10 + s, 10 + s] for s in (7, 14, 28, 56, 112)])
    multilevel_rois = torch.cat([random_boxes(rng, 15, 120, 4, 150), exact])
    pooler = torchvision.ops.MultiScaleRoIAlign(list(pyramid), 3, 2, canonical_scale=56)
    multilevel = pooler(pyramid, [multilevel_rois], [(128, 160)])
    save(
        "roi_align",
        features=features[0].permute(1, 2, 0),
        boxes=rois,
        cotangent=cotangent.permute(0, 2, 3, 1),
        **arrays,
        **{name: level[0].permute(1, 2, 0) for name, level in pyramid.items()},
        strides=np.int32(strides),
        multilevel_boxes=multilevel_rois,
        multilevel=multilevel.permute(0, 2, 3, 1),
    )


if __name__ == "__main__":
    for i, make in enumerate((boxes, box_coder, anchors, matching, nms, losses, roi_align)):
        make(np.random.default_rng(i))
