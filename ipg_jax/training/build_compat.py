"""Values of version 0.1 that said "not set", understood for one more version."""

from __future__ import annotations

import logging
from typing import Any

from ml_collections import ConfigDict

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


def current_values(config: ConfigDict) -> ConfigDict:
    """Returns the config with None where a value of version 0.1 said "not set".

    A config without such values is returned as it is; else it is a copy, and each old value is
    logged with the new one.
    """
    new: dict[str, Any] = {
        path: None for path, old in OLD_UNSET.items() if _get(config, path) == old
    }
    if config.eval_every == -1:
        new |= {"eval_every": None, "eval_only_at_end": True}
    if config.mesh.fsdp == -1:
        new["mesh.fsdp"] = None
        if config.mesh.data in (-1, None):  # one group of all devices
            new["mesh.data"] = 1
    if not new:
        return config
    # A plain copy would share the fields that may be unset, which are references.
    replacement = ConfigDict(config).copy_and_resolve_references()
    with replacement.unlocked():
        for path, value in new.items():
            logger.warning(
                "config.%s=%r is a value of version 0.1; it is config.%s=%r now, and the next "
                "version will not know the old one",
                path,
                _get(config, path),
                path,
                value,
            )
            replacement.update_from_flattened_dict({path: value})
    return replacement


def _get(config: ConfigDict, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = value[name]
    return tuple(value) if isinstance(value, list) else value
