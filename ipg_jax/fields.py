"""What a setting may hold, in words and as a check: the fields of a config, options in it."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any, NamedTuple

MOST = 2**31 - 1
"""The largest whole number where a field has no limit of its own: devices count in 32 bits."""


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


def ascending_pair(item: Field, text: str) -> Field:
    """A pair of values of one kind of which the first is not above the second.

    Args:
      item: what each value is.
      text: what the two are, in words that follow "a pair".
    """
    return several(item, f"a pair {text}", lambda x: len(x) == 2 and x[0] <= x[1])


def optional(field: Field) -> Field:
    """The same, or None for not set; an empty text says so, too."""
    return field._replace(optional=True)


def _is_whole(x: Any) -> bool:
    return isinstance(x, numbers.Integral) and not isinstance(x, bool)


FLAG = Field(bool, "True or False", lambda x: isinstance(x, bool))
