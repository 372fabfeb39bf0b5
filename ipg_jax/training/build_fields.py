"""What each field of a config may hold: a line for every field of `configs/common.py`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from typing import Any, get_args

import jax.numpy as jnp

from ipg_jax.evaluation import MERGE_METHODS, MERGE_OVERLAPS, METRICS
from ipg_jax.fields import (
    FLAG,
    Field,
    ascending_pair,
    choice,
    optional,
    real,
    several,
    whole,
)
from ipg_jax.kernels import Implementation
from ipg_jax.layers import NORMS, Remat
from ipg_jax.models import BACKBONES, FUSIONS, NECKS
from ipg_jax.tasks import (
    AVERAGES,
    BOX_LOSSES,
    CASCADE_RCNN,
    CLASS_LOSSES,
    FASTER_RCNN,
    MATCHERS,
    NMS_CHOICES,
)
from ipg_jax.training.optimizer import OPTIMIZERS, SCHEDULES
from ipg_jax.training.trackers import TRACKERS

DETECTORS = {"retinanet": (), "faster_rcnn": FASTER_RCNN, "cascade_rcnn": CASCADE_RCNN}
"""Stages of each detector's second half."""

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

WIDEST = 2**16
"""The most channels of a layer, and the longest side of an image."""

LARGEST_BATCH = 2**16
"""The most images of a batch, whose indices each host computes for each of its images."""

MOST_SCENES = 10**6
"""The most scenes of digits, all of which are laid out at the start."""


def _is_text(x: Any) -> bool:
    return isinstance(x, str) and x != "" and "\0" not in x


def _is_pattern(x: Any) -> bool:
    try:
        return isinstance(x, str) and re.compile(x) is not None
    except (re.error, RecursionError, OverflowError):
        return False


def _is_entry(x: Any) -> bool:
    if isinstance(x, tuple | list):
        return len(x) == 2 and _is_text(x[0]) and isinstance(x[1], Mapping)
    return _is_text(x)


def _ascending(x: Any) -> bool:
    return all(a < b for a, b in itertools.pairwise(x))


def _is_area_range(x: Any) -> bool:
    if not isinstance(x, tuple | list) or len(x) != 3 or not _is_text(x[0]):
        return False
    return all(map(real(0.0, 1e6).holds, x[1:])) and x[1] < x[2]


TEXT = Field(str, "a text", _is_text)
PATH = Field(str, "the name of a file or folder", _is_text, path=True)
PATTERN = Field(str, "a regular expression", _is_pattern)
SIZE = ascending_pair(
    whole(1, WIDEST),
    "(short, long) of whole numbers with 0 < short <= long, in pixels, such as (800, 1333)",
)
SIZES = several(
    SIZE,
    "one or more pairs (short, long) of whole numbers with 0 < short <= long, in pixels, such as "
    "((500, 800), (600, 1000))",
    bool,
)
ENTRY = Field(tuple, "a name or a pair (name, {option: value})", _is_entry)
AREA_RANGE = Field(tuple, "a size class (name, from, to)", _is_area_range)
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
        "trackers": several(
            choice(*TRACKERS),
            f"a tuple of different names, of {', '.join(TRACKERS)}",
            lambda x: len(set(x)) == len(x),
        ),
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
        "data.eval_share": real(0.0, below=1.0),
        "data.split_seed": whole(0, 2**32 - 1),
        "data.train_scenes": whole(1, MOST_SCENES),
        "data.eval_scenes": whole(0, MOST_SCENES),
        "data.scene_size": whole(48, WIDEST),
        "data.class_names": optional(
            several(TEXT, "a tuple of different names", lambda x: len(set(x)) == len(x))
        ),
        "data.ignore_classes": several(
            TEXT, "a tuple of different names", lambda x: len(set(x)) == len(x)
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
        "data.augmentations": several(
            ENTRY, "a tuple of names of augmentations and pairs (name, {option: value})"
        ),
        "data.train_sizes": optional(SIZES),
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
            ascending_pair(whole(2, 12), "(first, last) of levels from 2 to 12")
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
        "model.matcher": choice(*MATCHERS),
        "model.foreground_iou": optional(real(above=0.0, most=1.0)),
        "model.background_iou": optional(real(0.0, 1.0)),
        "model.ignore_overlap": optional(real(above=0.0, most=1.0)),
        "model.nwd_constant": real(above=0.0, most=1e6),
        "model.kernels": optional(choice(*get_args(Implementation))),
        "model.dtype": choice(*DTYPES),
        "model.param_dtype": choice(*DTYPES),
        "model.remat": choice(*get_args(Remat)),
        "model.retinanet_head.convs": whole(0, 64),
        "model.retinanet_head.channels": width,
        "model.retinanet_head.norm": choice("none", "group_norm"),
        "model.retinanet_head.box_loss": choice(*BOX_LOSSES),
        "model.retinanet_head.class_loss": choice(*CLASS_LOSSES),
        "model.retinanet_head.average": choice(*AVERAGES),
        "model.retinanet_head.candidates_per_level": whole(1),
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
        "eval.metric": choice(*METRICS),
        "eval.score_threshold": real(0.0, below=1.0),
        "eval.nms": choice(*NMS_CHOICES),
        "eval.nms_iou": real(0.0, 1.0),
        "eval.nms_sigma": real(above=0.0),
        "eval.max_detections": optional(whole(1)),
        "eval.area_ranges": optional(
            several(
                AREA_RANGE,
                "one or more (name, from, to) with different names and 0 <= from < to, in pixels, "
                'such as (("tiny", 0, 16), ("small", 16, 32))',
                lambda x: x and len({name for name, _, _ in x}) == len(x),
            )
        ),
        "eval.scales": optional(SIZES),
        "eval.flips": FLAG,
        "eval.detected": several(
            choice("whole", "tiled", "both"),
            "a tuple of one or more of whole, tiled, both, such as ('whole', 'tiled')",
            lambda x: x and len(set(x)) == len(x),
        ),
        "eval.tile": optional(TILE),
        "eval.tile_overlap": real(0.0, below=1.0),
        "eval.merge": choice(*MERGE_METHODS),
        "eval.merge_metric": choice(*MERGE_OVERLAPS),
        "eval.merge_threshold": real(above=0.0, most=1.0),
        "eval.samples": whole(0),
        "mesh.data": optional(whole(1)),
        "mesh.fsdp": optional(whole(1)),
        "mesh.space": whole(1),
    }
