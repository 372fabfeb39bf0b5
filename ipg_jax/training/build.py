"""From a config to the objects of a run. Only this module, `loop` and `benchmark` read a config."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ipg_jax.models import (
    FPN,
    IMAGE_BLOCK,
    BoxHead,
    FasterRCNN,
    GuidedResNet,
    RetinaNet,
    RetinaNetHead,
    RPNHead,
    level_strides,
)
from ipg_jax.tasks import (
    CASCADE_RCNN,
    FASTER_RCNN,
    NMS_CHOICES,
    DetectionTask,
    Proposals,
    RetinaNetTask,
    RoiHeads,
    TwoStageTask,
)
from ipg_jax.training.optimizer import make_optimizer, make_schedule
from ipg_jax.training.sharding import process_rows, state_sharding
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import TrainStep, make_train_step
from ipg_jax.types import Batch

if TYPE_CHECKING:  # data imports TensorFlow
    from ipg_jax.data import Source

DETECTORS = {"retinanet": (), "faster_rcnn": FASTER_RCNN, "cascade_rcnn": CASCADE_RCNN}
"""Stages of each detector's second half."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class View(NamedTuple):
    """One way to look at an image.

    Attributes:
      image_size: limits of the (short, long) side of the resized image, in pixels.
      flip: whether it is mirrored.
    """

    image_size: tuple[int, int]
    flip: bool


def build_task(config: ConfigDict) -> DetectionTask:
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
    if model.detector not in DETECTORS:
        raise ValueError(
            f"config.model.detector is one of {', '.join(DETECTORS)}, not {model.detector!r}"
        )
    if config.eval.nms not in NMS_CHOICES:
        raise ValueError(
            f"config.eval.nms is one of {', '.join(NMS_CHOICES)}, not {config.eval.nms!r}"
        )
    types = {"dtype": DTYPES[model.dtype], "param_dtype": DTYPES[model.param_dtype]}
    backbone = GuidedResNet(
        depth=model.depth,
        base_channels=model.base_channels,
        num_stages=model.num_stages,
        keep=model.keep,
        dilation=model.dilation,
        fusion=model.fusion,
        fusion_stages=tuple(model.fusion_stages),
        fusion_init=model.fusion_init,
        guidance_channels=model.guidance_channels,
        norm=model.norm,
        remat=model.remat,
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
        norm=model.fpn_norm,
        **types,
    )
    common: dict[str, Any] = {
        "anchor_sizes": tuple(
            # Whole pixels, as torchvision's.
            tuple(
                float(int(model.anchor_scale * stride * 2 ** (i / model.anchor_octaves)))
                for i in range(model.anchor_octaves)
            )
            for stride in level_strides(backbone, fpn)
        ),
        "anchor_ratios": tuple(model.anchor_ratios),
        "score_threshold": config.eval.score_threshold,
        "nms": config.eval.nms,
        "nms_iou": config.eval.nms_iou,
        "nms_sigma": config.eval.nms_sigma,
        "max_detections": config.eval.max_detections,
    }
    num_anchors = model.anchor_octaves * len(model.anchor_ratios)
    if model.detector == "retinanet":
        head = RetinaNetHead(
            num_classes=model.num_classes,
            num_anchors=num_anchors,
            channels=model.head_channels,
            num_convs=model.head_convs,
            norm=model.head_norm,
            remat=model.remat == "full",
            **types,
        )
        retinanet = RetinaNet(backbone=backbone, fpn=fpn, head=head)
        return RetinaNetTask(model=retinanet, box_loss=model.box_loss, **common)

    stages = DETECTORS[model.detector]
    box_head = BoxHead(
        num_classes=model.num_classes,
        num_convs=model.head_convs,
        conv_channels=model.head_channels,
        num_fcs=model.head_fcs,
        fc_channels=model.head_fc_channels,
        norm=model.head_norm,
        class_agnostic=len(stages) > 1,
        **types,
    )
    rpn = RPNHead(
        num_anchors=num_anchors, channels=model.fpn_channels, num_convs=model.rpn_convs, **types
    )
    rcnn = FasterRCNN(backbone=backbone, fpn=fpn, rpn=rpn, box_heads=(box_head,) * len(stages))
    return TwoStageTask(
        model=rcnn,
        proposals=Proposals(
            candidates_per_level=tuple(model.rpn_candidates),
            per_image=tuple(model.rpn_proposals),
        ),
        roi_heads=RoiHeads(stages=stages, rois_per_image=model.rois_per_image),
        **common,
    )


def build_views(config: ConfigDict) -> list[View]:
    """Returns the ways in which an evaluation looks at every image, plain ones before mirrored.

    One, `config.image_size` as it is, unless `config.eval.scales` and `config.eval.flips` ask for
    test-time augmentation.

    Raises:
      ValueError: `config.eval.scales` does not hold pairs (short, long).
    """
    scales = config.eval.scales or (config.image_size,)
    if not all(isinstance(s, (tuple, list)) and len(s) == 2 and 0 < s[0] <= s[1] for s in scales):
        raise ValueError(
            "config.eval.scales holds pairs (short, long) with 0 < short <= long, such as "
            f"((500, 800), (600, 1000)), not {config.eval.scales}"
        )
    mirrored = (False, True) if config.eval.flips else (False,)
    return [View((short, long), flip) for flip in mirrored for short, long in scales]


def build_source(config: ConfigDict, *, train: bool) -> Source:
    """Returns the training or the evaluation data that `config.data` describes.

    Raises:
      ValueError: `config.data.source` is unknown, or the data has other classes than the config.
    """
    from ipg_jax import data

    c = config.data
    split = c.train_split if train else c.eval_split
    common: dict[str, Any] = {
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


def build_train_batches(
    config: ConfigDict, task: DetectionTask, source: Source, mesh: Mesh, start_step: int = 0
) -> Generator[Batch, None, None]:
    """Returns this process's rows of the run's batches from a step on (see `train_batches`)."""
    from ipg_jax import data

    return data.train_batches(
        source,
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=start_step,
        image_size=tuple(config.image_size),
        levels=task.pyramid_levels,
        max_boxes=config.data.max_boxes,
        flip=config.data.flip,
        pad_multiple=data.padding_multiple(task.pyramid_levels, mesh.shape["space"]),
        blocks=IMAGE_BLOCK,
        rows=process_rows(mesh, config.batch_size),
    )


def run_length(config: ConfigDict, num_images: int) -> tuple[int, float]:
    """Returns the steps of a run and the steps of one epoch of its data.

    Raises:
      ValueError: the run has no step.
    """
    steps_per_epoch = num_images / config.batch_size
    num_steps = config.num_steps or round(config.num_epochs * steps_per_epoch)
    if num_steps < 1:
        raise ValueError("the run has no step: set config.num_steps or config.num_epochs")
    return num_steps, steps_per_epoch


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


def build_state(
    config: ConfigDict, task: DetectionTask, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    """Returns the function from a random key to the state of a run from scratch."""

    def create(rng: jax.Array) -> TrainState:
        return TrainState.create(task.init(rng), optimizer, ema=config.optimizer.ema_decay > 0)

    return create


def abstract_state(
    config: ConfigDict, task: DetectionTask, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Returns the state of a run as `jax.ShapeDtypeStruct`s with their shardings on `mesh`."""
    shapes = jax.eval_shape(build_state(config, task, optimizer), jax.random.key(0))
    shardings = state_sharding(mesh, shapes)
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def build_train_step(
    config: ConfigDict,
    task: DetectionTask,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    mesh: Mesh,
    placement: TrainState,
) -> TrainStep:
    """Returns the training step that `config.optimizer` asks for (see `make_train_step`)."""
    return make_train_step(
        task,
        optimizer,
        schedule,
        mesh,
        placement=placement,
        accumulation=config.optimizer.accumulation,
        ema_decay=config.optimizer.ema_decay,
    )
