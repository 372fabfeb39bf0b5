"""Checks of a config before anything is built of it: errors that name the field and its values."""

from __future__ import annotations

import logging
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ipg_jax.models import FUSIONS, IPGNet
from ipg_jax.ops import base_anchors
from ipg_jax.training.build_compat import current_values, get_field, has_field, replaced
from ipg_jax.training.build_fields import fields
from ipg_jax.training.command_line import home
from ipg_jax.training.optimizer import matching, no_match
from ipg_jax.types import PyTree

logger = logging.getLogger(__name__)

GROUPS = 32
"""Of a group norm (`layers.GroupNorm`), whose channels are a multiple of it."""


def checked(config: ConfigDict) -> ConfigDict:
    """Returns the config as it is read here.

    Values of version 0.1 are today's, an empty text is None where a field may be unset, whole
    numbers are floats where a field has such, and a leading `~` of a path is the home folder.

    Raises:
      ValueError: fields are missing or hold what they may not; each is named with what it may hold.
    """
    known = fields()
    missing = [path for path in known if not has_field(config, path)]
    if missing:
        raise ValueError(
            f"the config lacks {', '.join(f'config.{path}' for path in missing)}: start it from "
            "default_config() of configs/common.py"
        )
    config = current_values(config)
    values = {path: get_field(config, path) for path in known}
    problems = [
        f"config.{path} {problem}"
        for path, field in known.items()
        if (problem := field.problem(values[path])) is not None
    ]
    if problems:
        raise ValueError("\n".join(problems))
    new: dict[str, Any] = {}
    for path, field in known.items():
        if field.kind is float and isinstance(values[path], int):
            new[path] = float(values[path])
        elif field.optional and values[path] == "":
            new[path] = None
        elif field.path and values[path] is not None and values[path].startswith("~"):
            try:
                new[path] = home(values[path])
            except ValueError as error:
                raise ValueError(f"config.{path}={error}") from error
    return replaced(config, new) if new else config


EVAL_DATA = {
    "tfds": "eval_split",
    "coco": "eval_annotations",
    "voc": "eval_split",
    "yolo": "eval_split",
    "huggingface": "eval_split",
    "digits": "eval_scenes",
}
"""By source, the field of `config.data` without which there is nothing to evaluate on."""


def eval_data_field(config: ConfigDict) -> str:
    """Returns the field of `config.data` that says whether there are data to evaluate on."""
    if config.data.eval_share:
        return "eval_share"
    return EVAL_DATA.get(config.data.source, "source")  # other sources always have some


def has_eval_data(config: ConfigDict) -> bool:
    """Returns whether a training run has data to evaluate on; logs it if not.

    Raises:
      ValueError: it has none, and is to be evaluated every so many steps.
    """
    field = eval_data_field(config)
    if config.data[field]:
        return True
    if config.eval_every is not None and not config.eval_only_at_end:
        raise ValueError(
            f"config.eval_every={config.eval_every} asks for evaluations, and "
            f"config.data.{field} names no data for them: set it, or config.eval_only_at_end=True "
            "to train without evaluating"
        )
    logger.info("config.data.%s is not set: the run is not evaluated", field)
    return False


def check_fusion(model: ConfigDict, *, init: str, num_stages: int) -> None:
    """Raises ValueError for stages to guide that the backbone lacks, or a start that cannot be.

    Args:
      model: `config.model`.
      init: how the fusions start.
      num_stages: of the backbone.
    """
    beyond = [stage for stage in model.fusion_stages if stage > num_stages]
    if beyond:
        raise ValueError(
            f"config.model.fusion_stages={tuple(model.fusion_stages)} has {beyond[0]}, and "
            f"config.model.backbone={model.backbone} has the stages 1 to {num_stages} "
            f"(config.model.num_stages={model.num_stages})"
        )
    if model.fusion_stages and init == "identity" and not FUSIONS[model.fusion].has_identity:
        others = ", ".join(name for name, fusion in FUSIONS.items() if fusion.has_identity)
        raise ValueError(
            f"config.model.fusion={model.fusion} cannot start as config.model.fusion_init=identity "
            f"says: set that to default, or take one of the fusions {others}"
        )


def check_group_norms(model: ConfigDict, net: IPGNet) -> None:
    """Raises ValueError for a group norm of channels that its 32 groups do not divide.

    Args:
      model: `config.model`.
      net: the guided backbone that it describes.
    """
    channels = net.backbone.channels
    first = net.guidance_channels or channels["c2"]
    guidance = [first * 2 ** net.level(s) for s in net.fusion_stages]
    inner = [max(width // 4, 64) for width in guidance]
    added = [width for name, width in channels.items() if int(name[1:]) > 5]
    retinanet = model.detector == "retinanet"
    for norm, kind, field, widths in (
        ("norm", getattr(net.backbone, "norm", None), "base_channels", [model.base_channels or 64]),
        ("new_norm", net.norm, "guidance_channels", guidance + inner),
        ("new_norm", net.norm, "base_channels", added + [width // 4 for width in added]),
        ("fpn_norm", model.fpn_norm, "fpn_channels", [model.fpn_channels]),
        (
            "retinanet_head.norm",
            model.retinanet_head.norm if retinanet else None,
            "retinanet_head.channels",
            [model.retinanet_head.channels],
        ),
    ):
        wrong = [width for width in widths if width % GROUPS]
        if kind == "group_norm" and wrong:
            safe = 4 * GROUPS if field == "guidance_channels" else GROUPS  # of a bottleneck, too
            raise ValueError(
                f"config.model.{field}={get_field(model, field)} makes layers of {wrong[0]} "
                f"channels, which the {GROUPS} groups of config.model.{norm}=group_norm do not "
                f"divide: set config.model.{field} to a multiple of {safe}, or "
                f"config.model.{norm} to another norm"
            )


def check_anchors(model: ConfigDict, sizes: tuple[tuple[float, ...], ...]) -> None:
    """Raises ValueError for anchors that are nothing in whole pixels.

    Args:
      model: `config.model`.
      sizes: sides of the square anchors of each level.
    """
    for level in sizes:
        x0, y0, x1, y1 = base_anchors(level, model.anchor_ratios).T
        if np.minimum(x1 - x0, y1 - y0).min() < 1:
            raise ValueError(
                f"config.model.anchor_scale={model.anchor_scale} and "
                f"config.model.anchor_ratios={model.anchor_ratios} make anchors of less than a "
                "pixel: raise the scale, or take ratios nearer to 1"
            )


def check_initial(config: ConfigDict) -> None:
    """Raises ValueError for fields that say how weights are loaded, where none are."""
    for field in ("init_missing", "init_unexpected"):
        if config[field] is not None and config.init_from is None:
            raise ValueError(
                f"config.{field}={config[field]!r} is about the arrays of config.init_from, which "
                f"is not set: set it, or leave out config.{field}"
            )


def check_no_decay(config: ConfigDict, params: PyTree) -> None:
    """Raises ValueError if `config.optimizer.no_decay` matches no parameter.

    Args:
      config: the run's.
      params: the model's parameters, or their shapes.
    """
    pattern = config.optimizer.no_decay
    if pattern is not None and not any(jax.tree.leaves(matching(params, pattern))):
        raise ValueError(no_match("config.optimizer.no_decay", pattern, params))


def warn_of_large_batch(config: ConfigDict, num_images: int) -> None:
    """Logs a warning of a batch that has images more than once.

    Args:
      config: the run's.
      num_images: of its training data.
    """
    if config.batch_size > num_images:
        logger.warning(
            "config.batch_size=%d is more than the %d images of the training data: every batch has "
            "images several times, and an epoch is a part of a step",
            config.batch_size,
            num_images,
        )


def warn_of_warmup(config: ConfigDict, *, num_steps: int, steps_per_epoch: float) -> None:
    """Logs a warning of a warm-up that a run or its first milestone ends.

    Args:
      config: the run's.
      num_steps: its length.
      steps_per_epoch: to turn the milestones, which are in epochs, into steps.
    """
    c = config.optimizer
    if c.warmup_steps > num_steps:
        logger.warning(
            "config.optimizer.warmup_steps=%d is more than the %d steps of the run, which never "
            "reaches its learning rate: set fewer, or a longer run",
            c.warmup_steps,
            num_steps,
        )
    elif c.schedule == "step" and c.milestones:
        first = round(c.milestones[0] * steps_per_epoch)
        if c.warmup_steps > first:
            logger.warning(
                "config.optimizer.warmup_steps=%d is more than the %d steps to the first of "
                "config.optimizer.milestones=%s: the learning rate drops before it is reached",
                c.warmup_steps,
                first,
                c.milestones,
            )
