"""Configs of version 0.1: values that said "not set", and the fields of a `config.json`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from ipg_jax.training.plain_config import flat_fields

logger = logging.getLogger(__name__)

OLD_UNSET: dict[str, Any] = {
    "num_steps": 0,
    "init_from": "",
    "init_missing": "",
    "init_unexpected": "",
    "eval_every": 0,
    "data.root": "",
    "data.name": "",
    "data.data_dir": "",
    "data.class_names": (),
    "data.max_boxes": 0,
    "model.guidance_channels": 0,
    "optimizer.no_decay": "",
    "optimizer.frozen": "",
    "optimizer.clip_norm": 0.0,
    "optimizer.ema_decay": 0.0,
    "eval.batch_size": 0,
    "eval.scales": (),
    "mesh.data": -1,
}
"""What the fields held that are None now."""

OLD_NAMES = {
    "model.head_convs": "model.{head}.convs",
    "model.head_channels": "model.{head}.{channels}",
    "model.head_norm": "model.{head}.norm",
    "model.head_fcs": "model.box_head.fcs",
    "model.head_fc_channels": "model.box_head.fc_channels",
    "model.rois_per_image": "model.box_head.rois_per_image",
    "model.rpn_convs": "model.rpn.convs",
    "model.rpn_candidates": "model.rpn.candidates",
    "model.rpn_proposals": "model.rpn.proposals",
    "model.box_loss": "model.retinanet_head.box_loss",
}
"""Today's paths of fields of version 0.1; `head` is that of the detector."""

ADDED: dict[str, Any] = {
    "trackers": ("tensorboard",),
    "eval_only_at_end": False,
    "verify_checkpoints": True,
    "data.eval_share": 0.0,
    "data.split_seed": 0,
    "data.augmentations": (),
    "data.ignore_classes": (),
    "data.max_unreadable": 0.1,
    "data.max_image_pixels": 89_478_485,
    "data.exif": "auto",
    "data.repeat_small": 1.0,
    "data.tile_overlap": 0.2,
    "data.min_visible": 0.5,
    "data.empty_tiles": 1.0,
    "data.tile_cache": 1024,
    "eval.detected": ("whole",),
    "eval.tile_overlap": 0.2,
    "eval.merge": "nms",
    "eval.merge_metric": "iou",
    "eval.merge_threshold": 0.5,
    "model.neck": "fpn",
    "model.matcher": "iou",
    "model.nwd_constant": 12.7,
    "model.retinanet_head.convs": 4,
    "model.retinanet_head.channels": 256,
    "model.retinanet_head.norm": "none",
    "model.retinanet_head.class_loss": "focal",
    "model.retinanet_head.average": "image",
    "model.retinanet_head.candidates_per_level": 1000,
    "model.box_head.convs": 0,
    "model.box_head.conv_channels": 256,
    "model.box_head.norm": "none",
}
"""Fields that an older version's `config.json` may lack, and the values that mean what it did.

A field that may be unset needs no entry if None means that.
"""


def current_values(config: ConfigDict) -> ConfigDict:
    """Returns the config with None where a value of version 0.1 said "not set".

    A config without such values is returned as it is; else it is a copy, and each old value is
    logged with the new one.
    """
    new = {
        path: value
        for path, value in _todays_values(lambda path: get_field(config, path)).items()
        if get_field(config, path) != value
    }
    for path, value in new.items():
        logger.warning(
            "config.%s=%r is a value of version 0.1; it is config.%s=%r now, and the next "
            "version will not know the old one",
            path,
            get_field(config, path),
            path,
            value,
        )
    return replaced(config, new) if new else config


def replaced(config: ConfigDict, values: Mapping[str, Any]) -> ConfigDict:
    """Returns a copy of the config with other values of some fields, by their paths."""
    # A plain copy would share the fields that may be unset, which are references.
    copy = ConfigDict(config).copy_and_resolve_references()
    with copy.unlocked():
        copy.update_from_flattened_dict(values)
    return copy


def has_field(config: ConfigDict, path: str) -> bool:
    """Returns whether a config has a field of this path."""
    *sections, field = path.split(".")
    section: Any = config
    for name in sections:
        section = section.get(name)
        if not isinstance(section, ConfigDict):
            return False
    return field in section


def leaves(config: ConfigDict) -> Iterator[tuple[str, Any]]:
    """Yields the path and the value of every field; lists as tuples."""
    for path, value in flat_fields(config.to_dict()).items():
        yield path, _tuples(value)


def get_field(config: ConfigDict, path: str) -> Any:
    """Returns the value of a field by its path; a list, as JSON has them, as a tuple."""
    value: Any = config
    for name in path.split("."):
        value = value[name]
    return tuple(value) if isinstance(value, list) else value


def _todays_values(get: Callable[[str], Any]) -> dict[str, Any]:
    """Returns the new values of the fields whose value, by `get`, is one of version 0.1."""
    new: dict[str, Any] = {path: None for path, old in OLD_UNSET.items() if get(path) == old}
    if get("eval_every") == -1:
        new |= {"eval_every": None, "eval_only_at_end": True}
    if get("mesh.fsdp") == -1:
        new["mesh.fsdp"] = None
        if get("mesh.data") in (-1, None):  # one group of all devices
            new["mesh.data"] = 1
    return new


def fields_of(document: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a `config.json` by today's paths and in today's values.

    Whatever version wrote it: fields of version 0.1 have the names and values of now, and fields
    that it did not have the values that mean what it did then.

    Args:
      document: the parsed file.

    Raises:
      ValueError: this version cannot do what an older one did then.
    """
    fields = {path: _tuples(value) for path, value in flat_fields(document).items()}
    head = {"head": "box_head", "channels": "conv_channels"}
    if fields.get("model.detector") == "retinanet":
        head = {"head": "retinanet_head", "channels": "channels"}
    if "model.depth" in fields:
        fields["model.backbone"] = f"resnet{fields.pop('model.depth')}"
    for old, new in OLD_NAMES.items():
        if old in fields:
            fields[new.format(**head)] = fields.pop(old)
    fields |= _todays_values(fields.get)
    if "model.new_norm" not in fields:
        if fields.get("model.keep") and fields.get("model.num_stages", 4) > 4:
            raise ValueError(
                "the run was trained by version 0.1 with config.model.keep, whose levels of one "
                "stride had the same anchors: evaluate it with that version"
            )
        fields["model.new_norm"] = fields.get("model.norm")
    return ADDED | fields


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):  # options of an augmentation
        return {name: _tuples(option) for name, option in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
