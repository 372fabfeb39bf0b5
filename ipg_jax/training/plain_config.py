"""A config as plain JSON values, as a run stores and compares it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat_fields(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a config by their paths, `optimizer.learning_rate`."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            fields |= flat_fields(value, f"{prefix}{key}.")
        else:
            fields[prefix + key] = value
    return fields
