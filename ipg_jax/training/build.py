"""From a config to the objects of a run. Only this module and `loop` read a config."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from ipg_jax.models import FPN, GuidedResNet, RetinaNet, RetinaNetHead
from ipg_jax.tasks import RetinaNetTask
from ipg_jax.training.optimizer import make_optimizer, make_schedule

if TYPE_CHECKING:  # data imports TensorFlow
    from ipg_jax.data import Source

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_task(config: ConfigDict) -> RetinaNetTask:
    """Returns the detector and task that `config.model` and `config.eval` describe.

    Raises:
      ValueError: a field is out of range; the message names it.
    """
    model = config.model
    for field in ("dtype", "param_dtype"):
        if model[field] not in DTYPES:
            raise ValueError(
                f"config.model.{field} is one of {sorted(DTYPES)}, not {model[field]!r}"
            )
    types = {"dtype": DTYPES[model.dtype], "param_dtype": DTYPES[model.param_dtype]}
    backbone = GuidedResNet(
        depth=model.depth,
        num_stages=model.num_stages,
        keep=model.keep,
        dilation=model.dilation,
        fusion=model.fusion,
        fusion_stages=tuple(model.fusion_stages),
        fusion_init=model.fusion_init,
        guidance_channels=model.guidance_channels,
        norm=model.norm,
        **types,
    )
    first, last = model.fpn_levels
    last_stage = min(last, model.num_stages + 1)
    if not 2 <= first <= last_stage:
        raise ValueError(
            f"config.model.fpn_levels={(first, last)}: the first is 2 to {model.num_stages + 1} "
            "(num_stages + 1), the last no less"
        )
    fpn = FPN(
        in_features=tuple(f"c{level}" for level in range(first, last_stage + 1)),
        channels=model.fpn_channels,
        extra_levels=last - last_stage,
        extra_source=model.fpn_extra,
        **types,
    )
    head = RetinaNetHead(
        num_classes=model.num_classes,
        num_anchors=model.anchor_octaves * len(model.anchor_ratios),
        channels=model.head_channels,
        num_convs=model.head_convs,
        norm=model.head_norm,
        **types,
    )
    detector = RetinaNet(backbone=backbone, fpn=fpn, head=head)
    return RetinaNetTask(
        model=detector,
        anchor_sizes=tuple(
            # Whole pixels, as torchvision's.
            tuple(
                float(int(model.anchor_scale * stride * 2 ** (i / model.anchor_octaves)))
                for i in range(model.anchor_octaves)
            )
            for stride in detector.strides
        ),
        anchor_ratios=tuple(model.anchor_ratios),
        box_loss=model.box_loss,
        score_threshold=config.eval.score_threshold,
        nms_iou=config.eval.nms_iou,
        max_detections=config.eval.max_detections,
    )


def build_source(config: ConfigDict, *, train: bool) -> Source:
    """Returns the training or the evaluation data that `config.data` describes.

    Raises:
      ValueError: `config.data.source` is unknown, or the data has other classes than the config.
    """
    from ipg_jax import data

    c = config.data
    split = c.train_split if train else c.eval_split
    common = {
        "class_names": tuple(c.class_names),
        "drop_empty": train and c.drop_empty,
        "verify": c.verify,
    }
    source: Source
    if c.source == "coco":
        source = data.CocoSource(
            images=c.train_images if train else c.eval_images,
            annotations=c.train_annotations if train else c.eval_annotations,
            **common,
        )
    elif c.source == "voc":
        source = data.VocSource(root=c.root, split=split, **common)
    elif c.source == "tfds":
        source = data.TfdsSource(name=c.name, split=split, data_dir=c.data_dir or None, **common)
    elif c.source == "digits":
        source = data.DigitsSource(
            split=split,
            num_scenes=c.train_scenes if train else c.eval_scenes,
            scene_size=c.scene_size,
        )
    else:
        raise ValueError(f"config.data.source is one of tfds, coco, voc, digits, not {c.source!r}")
    if len(source.class_names) != config.model.num_classes:
        raise ValueError(
            f"{source.name} has {len(source.class_names)} classes ({', '.join(source.class_names)})"
            f", config.model.num_classes is {config.model.num_classes}: "
            f"set --config.model.num_classes={len(source.class_names)}, or name the classes in "
            "config.data.class_names"
        )
    return source


def build_optimizer(
    config: ConfigDict, *, num_steps: int, steps_per_epoch: float
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """Returns the optimizer of `config.optimizer` and its learning rate by step.

    The learning rate is scaled by `config.batch_size / config.optimizer.batch_size`.

    Args:
      config: the run's.
      num_steps: length of the run.
      steps_per_epoch: to turn the milestones, which are in epochs, into steps.
    """
    c = config.optimizer
    schedule = make_schedule(
        c.learning_rate * config.batch_size / c.batch_size,
        kind=c.schedule,
        num_steps=num_steps,
        milestones=[round(epoch * steps_per_epoch) for epoch in c.milestones],
        warmup_steps=c.warmup_steps,
        warmup_factor=c.warmup_factor,
    )
    optimizer = make_optimizer(
        schedule,
        name=c.name,
        momentum=c.momentum,
        weight_decay=c.weight_decay,
        clip_norm=c.clip_norm,
        no_decay=c.no_decay,
        frozen=c.frozen,
    )
    return optimizer, schedule
