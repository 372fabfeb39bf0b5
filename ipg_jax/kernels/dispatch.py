"""Which form of a kernel a program has: the textbook's, or one that a platform is faster with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import jax

Implementation: TypeAlias = Literal["reference", "fast"]
"""`reference`, plain `jax.lax`; or `fast`, the other form, whatever the platform."""

Kernel: TypeAlias = Literal[
    "conv2d",
    "dense_focal_loss",
    "packed_conv2d",
    "relu",
    "relu_max_pool",
    "stem_conv",
]
"""A function that has two forms."""

KERNELS: tuple[Kernel, ...] = get_args(Kernel)
"""The names of all kernels."""

_LOWERED = {"gpu": ("cuda", "rocm")}
"""What `jax.lax.platform_dependent` calls the platforms that `jax.Device` gives one name."""

# Parts of the key of every compiled program; the first holds the form of each of `KERNELS`.
_in_use = jax.make_user_context(default_value=(None,) * len(KERNELS))
_platform = jax.make_user_context(default_value=None)


def use(
    forms: Implementation | Mapping[Kernel, Implementation | None] | None,
) -> contextlib.AbstractContextManager[Any]:
    """Sets the form of kernels in the programs that are traced in this context.

        with kernels.use("reference"):
            jax.jvp(...)
        with kernels.use({"relu": "fast"}):  # of the others what it was
            ...

    Args:
      forms: one form for all kernels, or those of some by name; None, the default, is of each
        kernel the form that is known to be faster on the platform that the program is lowered for,
        and else the reference.

    Raises:
      ValueError: there is no such form or kernel.
    """
    if isinstance(forms, Mapping):
        unknown = sorted(set(forms) - set(KERNELS))
        if unknown:
            raise ValueError(f"kernels are {', '.join(KERNELS)}, not {', '.join(unknown)}")
        new = [forms.get(name, now) for name, now in zip(KERNELS, _in_use.value, strict=True)]
    else:
        new = [forms] * len(KERNELS)
    for form in new:
        _check(form)
    return _in_use(tuple(new))


def lowered_for(platform: str) -> contextlib.AbstractContextManager[Any]:
    """Says what platform the programs that are traced in this context are lowered for.

    Without it a program holds every form of a kernel until it is lowered, and takes twice as long
    to trace.

    Args:
      platform: that of a `jax.Device`.
    """
    return _platform(platform)


def chosen(name: Kernel, implementation: Implementation | None = None) -> Implementation | None:
    """Returns the form of a kernel that an argument or `use` asks for; None is by platform."""
    _check(implementation)
    return implementation or _in_use.value[KERNELS.index(name)]


def _check(name: object) -> None:
    if name is not None and name not in get_args(Implementation):
        raise ValueError(
            f"implementation is None or one of {get_args(Implementation)}, not {name!r}"
        )


def dispatch(
    *args: Any,
    name: Kernel,
    reference: Callable[..., Any],
    fast: Callable[..., Any],
    platforms: Sequence[str],
    implementation: Implementation | None = None,
) -> Any:
    """Returns `reference(*args)` or `fast(*args)`.

    Args:
      *args: arrays.
      name: of the kernel whose forms these are.
      reference: the definition.
      fast: another form of it, with the same results but for rounding.
      platforms: where `fast` is known to be faster, `cpu`, `gpu` or `tpu`: measured, or estimated
        by the compiler.
      implementation: the form to take; by default that of `use`, or else by platform.

    Raises:
      ValueError: `implementation` is none of these.
    """
    form = chosen(name, implementation)
    if form is None and _platform.value is not None:
        form = "fast" if _platform.value in platforms else "reference"
    if form is not None:
        return (reference if form == "reference" else fast)(*args)
    lowered = [each for platform in platforms for each in _LOWERED.get(platform, (platform,))]
    return jax.lax.platform_dependent(*args, **dict.fromkeys(lowered, fast), default=reference)
