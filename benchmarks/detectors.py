"""The detectors of the comparisons with torchvision, and batches for them.

They are those of `configs/`, built by hand: these programs also run on a bare machine that has
neither `ml_collections` nor TensorFlow (`tests/benchmarks` compares the two).
"""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # the package lies beside benchmarks
from ipg_jax import Batch, ops
from ipg_jax.models import (
    FPN,
    BoxHead,
    FasterRCNN,
    IPGNet,
    ResNet,
    RetinaNet,
    RetinaNetHead,
    RPNHead,
)
from ipg_jax.tasks import (
    RETINANET_IOU,
    RPN_IOU,
    DetectionTask,
    Proposals,
    RetinaNetTask,
    RoiHeads,
    TwoStageTask,
)
from ipg_jax.training.optimizer import make_optimizer, make_schedule
from ipg_jax.types import PackedImage

Detector = Literal["retinanet", "faster_rcnn"]
STAGES = (2, 3, 4)
"""Where the guided detectors are guided."""


IGNORE_OVERLAP = 0.5
"""As in the configs, though no object here is to be ignored."""


@dataclasses.dataclass(frozen=True)
class Size:
    """How large a detector is.

    Attributes:
      depth: of the ResNet.
      base_channels: its width.
      channels: of the FPN and of the dense heads.
      last_level: of the FPN; by default torchvision's.
      convs: of each of RetinaNet's towers.
      fc_channels: of the box head.
      candidates: anchors of a level that may be proposed, in training and in prediction.
      rois_per_image: proposals that the box head is trained on.
    """

    depth: int = 50
    base_channels: int = 64
    channels: int = 256
    last_level: int | None = None
    convs: int = 4
    fc_channels: int = 1024
    candidates: tuple[int, int] = (2000, 1000)
    rois_per_image: int = 512


STANDARD = Size()
TOY = Size(10, 8, 16, last_level=3, convs=1, fc_channels=16, candidates=(20, 10), rois_per_image=8)


def make_task(
    detector: Detector,
    *,
    stages: tuple[int, ...] = (),
    dtype: Any = jnp.bfloat16,
    norm: Literal["batch_norm", "frozen_batch_norm"] = "batch_norm",
    num_classes: int | None = None,
    size: Size = STANDARD,
) -> DetectionTask:
    """Returns a detector with torchvision's numbers of classes and detections.

    Args:
      detector: which.
      stages: those of the ResNet that are guided, by sums.
      dtype: of the computation.
      norm: of the backbone.
      num_classes: without a background; by default torchvision's, which counts it in one detector.
      size: how large.
    """
    types: dict[str, Any] = {"dtype": dtype, "param_dtype": jnp.float32}
    resnet = ResNet(size.depth, base_channels=size.base_channels, norm=norm, new_norm=norm, **types)
    backbone = IPGNet(resnet, fusion="sum", fusion_stages=stages, norm=norm)
    if detector == "retinanet":
        num_classes = num_classes or 91
        first, octaves, scale, max_detections = 3, 3, 4.0, 300
    else:
        num_classes = num_classes or 90
        first, octaves, scale, max_detections = 2, 1, 8.0, 100
    levels = range(first, 1 + (size.last_level or first + 4))
    anchors: dict[str, Any] = {
        "anchor_sizes": ops.level_anchor_sizes(levels, scale, octaves),
        "max_detections": max_detections,
    }
    fpn = FPN(
        in_features=tuple(f"c{level}" for level in levels if level < 6),
        channels=size.channels,
        extra_levels=sum(level > 5 for level in levels),
        extra_source="c" if detector == "retinanet" else "pool",
        **types,
    )
    if detector == "retinanet":
        head = RetinaNetHead(
            num_classes=num_classes,
            num_anchors=9,
            channels=size.channels,
            num_convs=size.convs,
            **types,
        )
        matcher = dataclasses.replace(RETINANET_IOU, ignore_overlap=IGNORE_OVERLAP)
        return RetinaNetTask(model=RetinaNet(backbone, fpn, head), matcher=matcher, **anchors)
    rpn = RPNHead(channels=size.channels, **types)
    box_head = BoxHead(
        num_classes=num_classes,
        conv_channels=size.channels,
        fc_channels=size.fc_channels,
        **types,
    )
    return TwoStageTask(
        model=FasterRCNN(backbone, fpn, rpn, (box_head,)),
        proposals=Proposals(
            matcher=dataclasses.replace(RPN_IOU, ignore_overlap=IGNORE_OVERLAP),
            candidates_per_level=size.candidates,
            per_image=size.candidates,
        ),
        roi_heads=RoiHeads(rois_per_image=size.rois_per_image, ignore_overlap=IGNORE_OVERLAP),
        **anchors,
    )


Optimizer: TypeAlias = tuple[optax.GradientTransformation, optax.Schedule]


def sgd(learning_rate: float) -> Optimizer:
    """Returns the optimizer of the configs and of torchvision's references, at a constant rate."""
    schedule = make_schedule(learning_rate, kind="step", num_steps=1)
    return make_optimizer(schedule, name="sgd", momentum=0.9, weight_decay=1e-4), schedule


def adam(learning_rate: float) -> Optimizer:
    """Returns Adam without decay, at a constant rate."""
    schedule = make_schedule(learning_rate, kind="step", num_steps=1)
    return make_optimizer(schedule, name="adamw", weight_decay=0.0), schedule


def make_batch(
    images: int, height: int, width: int, *, levels: int, num_boxes: int = 8, packed: bool = False
) -> Batch:
    """Returns a batch of noise whose images have objects of a quarter of their sides.

    Args:
      images: how many.
      height: of an image; a multiple of 4, and with several levels of their strides.
      width: the same.
      levels: of the pyramid.
      num_boxes: objects of an image, the first of as many classes.
      packed: whether images are in blocks of 4x4 pixels (`types.PackedImage`).
    """
    rng = np.random.default_rng(0)
    pyramid: Any = tuple(
        rng.integers(0, 256, (images, height >> i, width >> i, 3), np.uint8) for i in range(levels)
    )
    sides = np.float32([width, height, width, height])
    corners = rng.uniform(0, 0.7, (images, num_boxes, 2))
    boxes = np.concatenate([corners, corners + 0.25], axis=-1).astype(np.float32) * sides
    return Batch(
        pyramid=tuple(map(PackedImage.pack, pyramid)) if packed else pyramid,
        boxes=boxes,
        labels=np.tile(np.arange(num_boxes, dtype=np.int32), (images, 1)),
        valid=np.ones((images, num_boxes), bool),
        ignore=np.zeros((images, num_boxes), bool),
        image_size=np.tile(np.int32([height, width]), (images, 1)),
        scale=np.ones((images, 2), np.float32),
        image_id=np.arange(images, dtype=np.int32),
        weight=np.ones(images, np.float32),
    )
