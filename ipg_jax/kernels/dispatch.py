"""Which form of a kernel a program has: the textbook's, or one that a platform is faster with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax

Implementation: TypeAlias = Literal["reference", "fast"]
"""`reference`, plain `jax.lax`; or `fast`, the other form, whatever the platform."""

# Parts of the key of every compiled program.
_in_use = jax.make_user_context(default_value=None)
_platform = jax.make_user_context(default_value=None)


def use(implementation: Implementation | None) -> contextlib.AbstractContextManager[Any]:
    """Sets the form of every kernel in the programs that are traced in this context.

        with kernels.use("reference"):
            jax.jvp(...)

    Args:
      implementation: one form for all; or None, the default: of each kernel the form that is known
        to be faster on the platform that the program is lowered for, and else the reference.

    Raises:
      ValueError: `implementation` is none of these.
    """
    _check(implementation)
    return _in_use(implementation)


def lowered_for(platform: str) -> contextlib.AbstractContextManager[Any]:
    """Says what platform the programs that are traced in this context are lowered for.

    Without it a program holds every form of a kernel until it is lowered, and takes twice as long
    to trace.

    Args:
      platform: that of a `jax.Device`.
    """
    return _platform(platform)


def chosen(implementation: Implementation | None = None) -> Implementation | None:
    """Returns the form that an argument or `use` asks for; None leaves it to the platform."""
    _check(implementation)
    return implementation or _in_use.value


def _check(name: object) -> None:
    if name is not None and name not in get_args(Implementation):
        raise ValueError(
            f"implementation is None or one of {get_args(Implementation)}, not {name!r}"
        )


def dispatch(
    *args: Any,
    reference: Callable[..., Any],
    fast: Callable[..., Any],
    platforms: Sequence[str],
    implementation: Implementation | None = None,
) -> Any:
    """Returns `reference(*args)` or `fast(*args)`.

    Args:
      *args: arrays.
      reference: the definition.
      fast: another form of it, with the same results but for rounding.
      platforms: where `fast` is known to be faster: measured, or estimated by the compiler.
      implementation: the form to take; by default that of `use`, or else by platform.

    Raises:
      ValueError: `implementation` is none of these.
    """
    form = chosen(implementation)
    if form is None and _platform.value is not None:
        form = "fast" if _platform.value in platforms else "reference"
    if form is not None:
        return (reference if form == "reference" else fast)(*args)
    forms = dict.fromkeys(platforms, fast)
    return jax.lax.platform_dependent(*args, **forms, default=reference)
