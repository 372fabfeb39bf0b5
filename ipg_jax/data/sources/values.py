"""Single values of annotation files, which may be of any type: to numbers, flags and ids."""

from __future__ import annotations

import math
import re

from ipg_jax.text import shown

_DECIMAL = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_FLAGS = {
    **dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), True),
    **dict.fromkeys(("0", "0.0", "false", "f", "no", "n"), False),
}


def number(value: object) -> float:
    """A number, also one written as text (`"12.5"`); NaN for anything else."""
    if type(value) is float:  # most of the millions of values of a large data set
        return value
    if isinstance(value, str):
        text = value.strip()
        return float(text) if _DECIMAL.fullmatch(text) else math.nan
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # an integer of more than 308 digits
        return math.inf


def side(value: object) -> int:
    """A height or width: a positive whole number that fits an int32; 0 for anything else."""
    length = number(value)
    return int(length) if 0 < length < 2**31 and length.is_integer() else 0


def flag(value: object) -> bool | None:
    """A flag in any spelling: 1, `"1"`, true, `"True"`, `"yes"`, ...; None for anything else."""
    if not isinstance(value, (bool, int, float, str)):
        return None
    return _FLAGS.get(str(value).strip().lower())


def identity(value: object) -> str | None:
    """What ids are compared by: 1, 1.0 and "1" are one id; None if the value cannot be an id."""
    if type(value) is int:
        return str(value)
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return None


def described(value: object) -> str:
    """A value of a file for a message: short, on one line, without control characters."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case str():
            return f'"{shown(value, limit=60)}"'
        case list():
            return f"a list of {len(value)}"
        case dict():
            return "an object"
    return shown(value, limit=60)
