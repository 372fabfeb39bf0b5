"""From a config to its task, optimizer, state and training step.

The modules `build*` are the only ones that read a `ConfigDict`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from ipg_jax.evaluation import METRICS
from ipg_jax.fields import MOST
from ipg_jax.images import ImageOptions
from ipg_jax.layers import NormKind
from ipg_jax.models import (
    BACKBONES,
    FUSIONS,
    NECKS,
    Backbone,
    BoxHead,
    FasterRCNN,
    IPGNet,
    Neck,
    RetinaNet,
    RetinaNetHead,
    RPNHead,
)
from ipg_jax.ops import level_anchor_sizes
from ipg_jax.tasks import (
    DetectionTask,
    Proposals,
    RetinaNetTask,
    RoiHeads,
    TwoStageTask,
)
from ipg_jax.training.build_checks import (
    check_anchors,
    check_fusion,
    check_group_norms,
    checked,
)
from ipg_jax.training.build_fields import DETECTORS, DTYPES
from ipg_jax.training.build_matchers import build_matcher
from ipg_jax.training.optimizer import make_optimizer, make_schedule
from ipg_jax.training.sharding import make_mesh, state_sharding
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Policy, TrainStep, make_train_step


def build_task(config: ConfigDict) -> DetectionTask:
    """Returns the detector and task that `config.model` and `config.eval` describe.

    Raises:
      ValueError: a field is out of range; the message names it.
    """
    config = checked(config)
    model = config.model
    types = {"dtype": DTYPES[model.dtype], "param_dtype": DTYPES[model.param_dtype]}
    guided = build_backbone(model, types)
    check_fusion(model, init=fusion_init(config), num_stages=len(guided.strides))
    backbone = IPGNet(
        backbone=guided,
        fusion=model.fusion,
        fusion_stages=tuple(model.fusion_stages),
        fusion_init=fusion_init(config),
        guidance_channels=model.guidance_channels,
        norm=new_norm(model),
        remat=model.remat,
    )
    check_group_norms(model, backbone)
    first, last = fpn_levels(model)
    fpn = build_neck(model, types)
    anchor_sizes = level_anchor_sizes(
        range(first, last + 1), model.anchor_scale, model.anchor_octaves
    )
    check_anchors(model, anchor_sizes)
    common: dict[str, Any] = {
        "anchor_sizes": anchor_sizes,
        "anchor_ratios": tuple(map(float, model.anchor_ratios)),
        "score_threshold": config.eval.score_threshold,
        "nms": config.eval.nms,
        "nms_iou": config.eval.nms_iou,
        "nms_sigma": config.eval.nms_sigma,
        "max_detections": config.eval.max_detections or METRICS[config.eval.metric].limits[-1],
        "kernels": model.kernels,
    }
    matcher = build_matcher(model, levels=(first, last))
    num_anchors = model.anchor_octaves * len(model.anchor_ratios)
    if model.detector == "retinanet":
        head = RetinaNetHead(
            num_classes=model.num_classes,
            num_anchors=num_anchors,
            channels=model.retinanet_head.channels,
            num_convs=model.retinanet_head.convs,
            norm=model.retinanet_head.norm,
            remat=model.remat == "full",
            **types,
        )
        retinanet = RetinaNet(backbone=backbone, fpn=fpn, head=head)
        return RetinaNetTask(
            model=retinanet,
            matcher=matcher,
            box_loss=model.retinanet_head.box_loss,
            class_loss=model.retinanet_head.class_loss,
            average=model.retinanet_head.average,
            nwd_constant=model.nwd_constant,
            candidates_per_level=model.retinanet_head.candidates_per_level,
            **common,
        )

    stages = DETECTORS[model.detector]
    box_head = BoxHead(
        num_classes=model.num_classes,
        num_convs=model.box_head.convs,
        conv_channels=model.box_head.conv_channels,
        num_fcs=model.box_head.fcs,
        fc_channels=model.box_head.fc_channels,
        norm=model.box_head.norm,
        class_agnostic=len(stages) > 1,
        **types,
    )
    rpn = RPNHead(
        num_anchors=num_anchors, channels=model.fpn_channels, num_convs=model.rpn.convs, **types
    )
    rcnn = FasterRCNN(backbone=backbone, fpn=fpn, rpn=rpn, box_heads=(box_head,) * len(stages))
    return TwoStageTask(
        model=rcnn,
        proposals=Proposals(
            matcher=matcher,
            candidates_per_level=tuple(model.rpn.candidates),
            per_image=tuple(model.rpn.proposals),
        ),
        roi_heads=RoiHeads(
            stages=stages,
            rois_per_image=model.box_head.rois_per_image,
            ignore_overlap=model.ignore_overlap,
        ),
        **common,
    )


def space_to_depth(config: ConfigDict, mesh: Mesh) -> bool:
    """Returns whether pyramids are packed: by default where a TPU's stem reads them."""
    if config.data.space_to_depth is None:
        return mesh.devices.flat[0].platform == "tpu"
    return config.data.space_to_depth


def build_backbone(model: ConfigDict, types: dict[str, Any]) -> Backbone:
    """Returns the network of `config.model` that is guided.

    Args:
      model: `config.model`.
      types: `dtype` and `param_dtype`.

    Raises:
      ValueError: there is no such backbone, or it does not have what another field asks for.
    """
    if model.backbone not in BACKBONES:
        raise ValueError(
            f"config.model.backbone is one of {', '.join(BACKBONES)}, not {model.backbone!r}"
        )
    make = BACKBONES[model.backbone]
    module: Any = make.func if isinstance(make, functools.partial) else make
    known = {field.name for field in dataclasses.fields(module)}
    wanted = {"norm": model.norm, "new_norm": new_norm(model), "remat": model.remat == "full"}
    options = types | {name: value for name, value in wanted.items() if name in known}
    if model.base_channels is not None:
        options["base_channels"] = model.base_channels
    for name, usual in (("num_stages", 4), ("keep", False), ("dilation", 1)):
        if name in known:
            options[name] = model[name]
        elif model[name] != usual:
            raise ValueError(f"{model.backbone} has no config.model.{name}: leave it at {usual}")
    return make(**options)


def fpn_levels(model: ConfigDict) -> tuple[int, int]:
    """Returns the first and the last level of the neck of `config.model`.

    Raises:
      ValueError: they are not those of the backbone.
    """
    first, last = model.fpn_levels or default_fpn_levels(model.detector, model.num_stages)
    if not 2 <= first <= min(last, model.num_stages + 1):
        raise ValueError(
            f"config.model.fpn_levels={(first, last)}: the first is 2 to {model.num_stages + 1} "
            "(config.model.num_stages + 1), the last no less"
        )
    return first, last


def build_neck(model: ConfigDict, types: dict[str, Any]) -> Neck:
    """Returns the neck of `config.model`.

    Args:
      model: `config.model`.
      types: `dtype` and `param_dtype`.

    Raises:
      ValueError: its levels are not those of the backbone.
    """
    first, last = fpn_levels(model)
    last_stage = min(last, model.num_stages + 1)
    module: Any = NECKS[model.neck]
    known = {field.name for field in dataclasses.fields(module)}
    wanted = {"extra_source": model.fpn_extra, "norm": model.fpn_norm}
    return module(
        in_features=tuple(f"c{level}" for level in range(first, last_stage + 1)),
        extra_levels=last - last_stage,
        channels=model.fpn_channels,
        **{name: value for name, value in wanted.items() if name in known},
        **types,
    )


def new_norm(model: ConfigDict) -> NormKind:
    """Returns the norm of what is added to the backbone: transformations and further stages.

    Not the backbone's where that is frozen: without trained statistics it would be none at all.
    """
    if model.new_norm is not None:
        return model.new_norm
    return "group_norm" if model.norm == "frozen_batch_norm" else model.norm


def fusion_init(config: ConfigDict) -> Literal["default", "identity"]:
    """Returns how fusions start: where weights are loaded, as `O = R` if they can.

    At random they would project what the trained stages read to noise.
    """
    if config.model.fusion_init is not None:
        return config.model.fusion_init
    can = FUSIONS[config.model.fusion].has_identity
    return "identity" if config.init_from is not None and can else "default"


def default_fpn_levels(detector: str, num_stages: int) -> tuple[int, int]:
    """Returns the first and the last level of the FPN where `config.model.fpn_levels` is not set.

    RetinaNet's go two beyond the backbone's last, as P6 and P7 of four stages; of the others the
    last is for proposals alone, as P6.
    """
    return (3, num_stages + 3) if detector == "retinanet" else (2, num_stages + 2)


def build_mesh(config: ConfigDict, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns the mesh of `config.mesh`.

    Args:
      config: the run's.
      devices: other devices than those of the processes, see `make_mesh`.

    Raises:
      ValueError: the mesh does not fit the devices.
    """
    return make_mesh(**checked(config).mesh, devices=devices)


def run_length(config: ConfigDict, num_images: int) -> tuple[int, float]:
    """Returns the steps of a run and the steps of one epoch of its data.

    Raises:
      ValueError: the run has no step, or more than can be counted.
    """
    config = checked(config)
    steps_per_epoch = num_images / config.batch_size
    num_steps = config.num_steps or round(config.num_epochs * steps_per_epoch)
    if num_steps < 1:
        raise ValueError("the run has no step: set config.num_steps or config.num_epochs")
    if num_steps > MOST:
        raise ValueError(
            f"config.num_epochs={config.num_epochs} are {num_steps} steps, more than {MOST}: set "
            "fewer, or config.num_steps"
        )
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
    c = checked(config).optimizer
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
        no_decay=c.no_decay or "",
        frozen=c.frozen or "",
    )
    return optimizer, schedule


def build_state(
    config: ConfigDict, task: DetectionTask, optimizer: optax.GradientTransformation
) -> Callable[[jax.Array], TrainState]:
    """Returns the function from a random key to the state of a run from scratch."""
    ema = checked(config).optimizer.ema_decay is not None

    def create(rng: jax.Array) -> TrainState:
        return TrainState.create(task.init(rng), optimizer, ema=ema)

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
        task.loss_and_updates,
        optimizer,
        mesh,
        schedule=schedule,
        policy=Policy(task.dtype),
        placement=placement,
        accumulation=config.optimizer.accumulation,
        num_images=lambda batch: batch.weight.sum(),
        ema_decay=config.optimizer.ema_decay or 0.0,  # not used by a state without an average
    )


def build_template(config: ConfigDict, task: DetectionTask, mesh: Mesh) -> TrainState:
    """Returns the state that the run's checkpoints hold, without values."""
    # The state's structure is the same for any length of the run.
    optimizer, _ = build_optimizer(config, num_steps=1, steps_per_epoch=1.0)
    return abstract_state(config, task, optimizer, mesh)


def build_image_options(c: ConfigDict) -> ImageOptions:
    """Returns how image files are read by `config.data`, in training as in prediction.

    Raises:
      ValueError: a field is out of range; the message names it.
    """
    return ImageOptions(max_pixels=c.max_image_pixels, sample_bits=c.sample_bits, exif=c.exif)
