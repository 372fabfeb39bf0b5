"""What each field of a config may hold: a line for every field of `configs/common.py`."""

from __future__ import annotations

import itertools
import math
import numbers
import re
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax.numpy as jnp

from ipg_jax.kernels import Implementation
from ipg_jax.layers import NORMS, Remat
from ipg_jax.models import BACKBONES, FUSIONS, NECKS
from ipg_jax.tasks import CASCADE_RCNN, FASTER_RCNN, NMS_CHOICES
from ipg_jax.training.optimizer import OPTIMIZERS, SCHEDULES

DETECTORS = {"retinanet": (), "faster_rcnn": FASTER_RCNN, "cascade_rcnn": CASCADE_RCNN}
"""Stages of each detector's second half."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

MOST = 2**31 - 1
"""The largest whole number where a field has no limit of its own: devices count in 32 bits."""

WIDEST = 2**16
"""The most channels of a layer, and the longest side of an image."""

LARGEST_BATCH = 2**16
"""The most images of a batch, whose indices each host computes for each of its images."""

MOST_SCENES = 10**6
"""The most scenes of digits, all of which are laid out at the start."""


class Field(NamedTuple):
    """What a field may hold.

    Attributes:
      kind: the type of its values, as the command line reads them.
      text: what a value is, in words.
      holds: whether something is such a value.
      optional: whether the field may be None, not set.
      path: whether it names a file or folder, in which `~` stands for the home folder.
    """

    kind: type
    text: str
    holds: Callable[[Any], bool]
    optional: bool = False
    path: bool = False

    def problem(self, value: Any) -> str | None:
        """Returns what is wrong with a value, to follow the field's name, or None."""
        if self.optional and (value is None or (self.kind is str and value == "")):
            return None
        if self.holds(value):
            return None
        shown = repr(value)
        shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
        return f"is {self.text}{', or not set' if self.optional else ''}, not {shown}"


def whole(least: int, most: int = MOST) -> Field:
    """A whole number within limits."""
    limits = f"from {least} on" if most == MOST else f"from {least} to {most}"
    return Field(int, f"a whole number {limits}", lambda x: _is_whole(x) and least <= x <= most)


def real(
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
) -> Field:
    """A finite number within limits, of which `least` and `most` are allowed themselves."""
    words = {"from": least, "above": above, "to": most, "below": below}
    limits = [f"{word} {limit:g}" for word, limit in words.items() if math.isfinite(limit)]

    def holds(x: Any) -> bool:
        if not isinstance(x, numbers.Real) or isinstance(x, bool):
            return False
        try:
            x = float(x)
        except OverflowError:  # a whole number beyond all floats
            return False
        return math.isfinite(x) and least <= x <= most and above < x < below

    return Field(float, f"a number {' '.join(limits)}", holds)


def choice(*names: str) -> Field:
    """One of some names."""
    text = f"one of {', '.join(names)}"
    return Field(str, text, lambda x: isinstance(x, str) and x in names)


def several(item: Field, text: str, fits: Callable[[Any], bool] = lambda _: True) -> Field:
    """A tuple of values of one kind.

    Args:
      item: what each value is.
      text: what the tuple is, in words.
      fits: whether so many and such values go together.
    """

    def holds(x: Any) -> bool:
        return isinstance(x, tuple | list) and all(map(item.holds, x)) and bool(fits(x))

    return Field(tuple, text, holds)


def optional(field: Field) -> Field:
    """The same, or None for not set; an empty text says so, too."""
    return field._replace(optional=True)


def _is_whole(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


def _is_text(x: Any) -> bool:
    return isinstance(x, str) and x != "" and "\0" not in x


def _is_pattern(x: Any) -> bool:
    try:
        return isinstance(x, str) and re.compile(x) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _ascending(x: Any) -> bool:
    return all(a < b for a, b in itertools.pairwise(x))


def _is_pair(x: Any) -> bool:
    return len(x) == 2 and x[0] <= x[1]


FLAG = Field(bool, "True or False", lambda x: isinstance(x, bool))
TEXT = Field(str, "a text", _is_text)
PATH = Field(str, "the name of a file or folder", _is_text, path=True)
PATTERN = Field(str, "a regular expression", _is_pattern)
SIZE = several(
    whole(1, WIDEST),
    "a pair (short, long) of whole numbers with 0 < short <= long, in pixels, such as (800, 1333)",
    _is_pair,
)
TILE = several(
    whole(1, WIDEST),
    "a pair (height, width) of whole numbers from 1 on, in pixels, such as (512, 512)",
    lambda x: len(x) == 2,
)
TWO = several(
    whole(1),
    "a pair of whole numbers from 1 on, for training and prediction",
    lambda x: len(x) == 2,
)


def fields() -> dict[str, Field]:
    """Returns what each field of a config may hold, by the field's path.

    What `config.data.source` and `config.data.augmentations` name is known to `ipg_jax.data` and
    checked where the data are built.
    """
    norm, width = choice(*NORMS), whole(1, WIDEST)
    return {
        "seed": whole(0, 2**32 - 1),
        "batch_size": whole(1, LARGEST_BATCH),
        "num_epochs": real(above=0.0, most=1e6),
        "num_steps": optional(whole(1)),
        "image_size": SIZE,
        "init_from": optional(PATH),
        "init_missing": optional(PATTERN),
        "init_unexpected": optional(PATTERN),
        "log_every": whole(1),
        "checkpoint_every": whole(1),
        "eval_every": optional(whole(1)),
        "eval_only_at_end": FLAG,
        "keep_checkpoints": whole(1),
        "verify_checkpoints": FLAG,
        "data.source": TEXT,
        "data.train_images": PATH,
        "data.train_annotations": PATH,
        "data.eval_images": optional(PATH),
        "data.eval_annotations": optional(PATH),
        "data.root": optional(PATH),
        "data.name": optional(TEXT),
        "data.data_dir": optional(PATH),
        "data.one_based": optional(FLAG),
        "data.train_split": TEXT,
        "data.eval_split": optional(TEXT),
        "data.train_scenes": whole(1, MOST_SCENES),
        "data.eval_scenes": whole(0, MOST_SCENES),
        "data.scene_size": whole(48, WIDEST),
        "data.class_names": optional(
            several(TEXT, "a tuple of different names", lambda x: len(set(x)) == len(x))
        ),
        "data.repeat_share": optional(real(above=0.0, most=1.0)),
        "data.repeat_small": real(1.0, 1000.0),
        "data.drop_empty": FLAG,
        "data.max_boxes": optional(whole(1)),
        "data.tile": optional(TILE),
        "data.tile_overlap": real(0.0, below=1.0),
        "data.min_visible": real(0.0, 1.0),
        "data.empty_tiles": real(0.0, 1.0),
        "data.tile_cache": whole(0),
        "data.flip": real(0.0, 1.0),
        "data.augmentations": several(TEXT, "a tuple of names of augmentations"),
        "data.space_to_depth": optional(FLAG),
        "data.verify": choice("headers", "decode", "none"),
        "data.max_unreadable": real(0.0, 1.0),
        "data.max_image_pixels": whole(1, 2**62),
        "data.sample_bits": optional(whole(8, 32)),
        "data.exif": choice("auto", "apply", "ignore"),
        "model.detector": choice(*DETECTORS),
        "model.num_classes": whole(1, WIDEST),
        "model.backbone": choice(*BACKBONES),
        "model.base_channels": optional(width),
        "model.num_stages": whole(4, 7),
        "model.keep": FLAG,
        "model.dilation": whole(1, 64),
        "model.norm": norm,
        "model.new_norm": optional(norm),
        "model.fusion": choice(*FUSIONS),
        "model.fusion_stages": several(
            whole(1, 7), "a tuple of different stages from 1 to 7", lambda x: len(set(x)) == len(x)
        ),
        "model.fusion_init": optional(choice("default", "identity")),
        "model.guidance_channels": optional(width),
        "model.fpn_levels": optional(
            several(whole(2, 12), "a pair (first, last) of levels from 2 to 12", _is_pair)
        ),
        "model.neck": choice(*NECKS),
        "model.fpn_channels": width,
        "model.fpn_extra": choice("c", "p", "pool"),
        "model.fpn_norm": choice("none", *NORMS),
        "model.anchor_scale": real(above=0.0, most=1024.0),
        "model.anchor_octaves": whole(1, 64),
        "model.anchor_ratios": several(
            real(1e-3, 1e3),
            "a tuple of one or more numbers from 0.001 to 1000",
            bool,
        ),
        "model.kernels": optional(choice(*get_args(Implementation))),
        "model.dtype": choice(*DTYPES),
        "model.param_dtype": choice(*DTYPES),
        "model.remat": choice(*get_args(Remat)),
        "model.retinanet_head.convs": whole(0, 64),
        "model.retinanet_head.channels": width,
        "model.retinanet_head.norm": choice("none", "group_norm"),
        "model.retinanet_head.box_loss": choice("l1", "smooth_l1", "giou"),
        "model.rpn.convs": whole(0, 64),
        "model.rpn.candidates": TWO,
        "model.rpn.proposals": TWO,
        "model.box_head.convs": whole(0, 64),
        "model.box_head.conv_channels": width,
        "model.box_head.fcs": whole(0, 64),
        "model.box_head.fc_channels": width,
        "model.box_head.norm": choice("none", "batch_norm"),
        "model.box_head.rois_per_image": whole(1),
        "optimizer.name": choice(*OPTIMIZERS),
        "optimizer.learning_rate": real(above=0.0),
        "optimizer.batch_size": whole(1, LARGEST_BATCH),
        "optimizer.momentum": real(0.0, below=1.0),
        "optimizer.weight_decay": real(0.0),
        "optimizer.no_decay": optional(PATTERN),
        "optimizer.frozen": optional(PATTERN),
        "optimizer.clip_norm": optional(real(above=0.0)),
        "optimizer.schedule": choice(*SCHEDULES),
        "optimizer.milestones": several(
            real(above=0.0, most=1e6), "a tuple of ascending epochs above 0", _ascending
        ),
        "optimizer.warmup_steps": whole(0),
        "optimizer.warmup_factor": real(0.0, 1.0),
        "optimizer.accumulation": whole(1, LARGEST_BATCH),
        "optimizer.ema_decay": optional(real(above=0.0, below=1.0)),
        "eval.batch_size": optional(whole(1, LARGEST_BATCH)),
        "eval.metric": choice("coco", "voc"),
        "eval.score_threshold": real(0.0, below=1.0),
        "eval.nms": choice(*NMS_CHOICES),
        "eval.nms_iou": real(0.0, 1.0),
        "eval.nms_sigma": real(above=0.0),
        "eval.max_detections": whole(1),
        "eval.scales": optional(
            several(
                SIZE,
                "one or more pairs (short, long) of whole numbers with 0 < short <= long, in "
                "pixels, such as ((500, 800), (600, 1000))",
                bool,
            )
        ),
        "eval.flips": FLAG,
        "eval.detected": several(
            choice("whole", "tiled", "both"),
            "a tuple of one or more of whole, tiled, both, such as ('whole', 'tiled')",
            lambda x: x and len(set(x)) == len(x),
        ),
        "eval.tile": optional(TILE),
        "eval.tile_overlap": real(0.0, below=1.0),
        "eval.merge": choice("nms", "greedy_nmm"),
        "eval.merge_metric": choice("iou", "ios"),
        "eval.merge_threshold": real(above=0.0, most=1.0),
        "eval.samples": whole(0),
        "mesh.data": optional(whole(1)),
        "mesh.fsdp": optional(whole(1)),
        "mesh.space": whole(1),
    }
