"""Variables put together from two sources, strictly: nothing is missing, left over or misshapen.

Arrays are known by their path in the model, `backbone/layer1/block0/bn1/scale`, whatever their
collection: the vectors of a batch norm fit a frozen one, which keeps all four in `batch_stats`.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from ipg_jax.types import Array, PyTree
from ipg_jax.weights.classes import match_classes

logger = logging.getLogger(__name__)

GUIDANCE = r"(.*/)?(ipg|fusion)\d+/.*"
"""The parameters that an IPG model has and its plain baseline has not."""


def by_path(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths, `params/backbone/layer1/.../kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def model_arrays(variables: PyTree) -> dict[str, Any]:
    """Returns the arrays of `{"params": ..., "batch_stats": ...}` by their paths in the model."""
    return {path.partition("/")[2]: leaf for path, leaf in by_path(variables).items()}


def differences(
    want: Mapping[str, Any], have: Mapping[str, Any], *, missing: str = "", unexpected: str = ""
) -> list[str]:
    """Returns lines on the arrays that are missing, unexpected or of another shape in `have`.

    The first five of each kind have a line each, and the others are counted by module.

    Args:
      want: arrays (or their shapes) by path.
      have: arrays (or their shapes) by path.
      missing: regular expression of whole paths that `have` may lack.
      unexpected: regular expression of whole paths that `have` may have beyond `want`.
    """
    lacking = [path for path in want if path not in have and not re.fullmatch(missing, path)]
    beyond = [path for path in have if path not in want and not re.fullmatch(unexpected, path)]
    other = [p for p in want.keys() & have.keys() if tuple(have[p].shape) != tuple(want[p].shape)]
    return [
        *_first(lacking, lambda path: f"missing: {path} {tuple(want[path].shape)}"),
        *_first(beyond, lambda path: f"unexpected: {path} {tuple(have[path].shape)}"),
        *_first(other, lambda p: f"{p}: {tuple(have[p].shape)} instead of {tuple(want[p].shape)}"),
    ]


def _first(paths: Sequence[str], line: Callable[[str], str], limit: int = 5) -> list[str]:
    paths = sorted(paths)
    lines = [line(path) for path in paths[:limit]]
    if paths[limit:]:
        lines.append(f"... and {len(paths) - limit} more: {summary(paths[limit:])}")
    return lines


def merge(fresh: PyTree, loaded: PyTree, *, missing: str = "", unexpected: str = "") -> PyTree:
    """Returns the variables `fresh` with the values of `loaded`, placed and typed as in `fresh`.

    Args:
      fresh: `{"params": ..., "batch_stats": ...}` of the model to fill.
      loaded: variables of the same layout.
      missing: regular expression of whole paths that `loaded` may lack; they stay fresh. Paths
        are those of the error's list, without the collection: `head/class_logits/bias`.
      unexpected: regular expression of whole paths that `loaded` may have for nothing.

    Raises:
      ValueError: an array is missing, unexpected or of another shape (`differences`).
    """
    want, have = model_arrays(fresh), model_arrays(loaded)
    problems = differences(want, have, missing=missing, unexpected=unexpected)
    if problems:
        raise ValueError(
            "the loaded variables do not fit the model:\n  "
            + "\n  ".join(problems)
            + "\nWhat is missing may start fresh and what is unexpected be ignored, by "
            "config.init_missing and config.init_unexpected, regular expressions of whole paths; "
            "other shapes need another config.model."
        )
    for what, paths in (
        ("start fresh", want.keys() - have.keys()),
        ("are not used", have.keys() - want.keys()),
    ):
        if paths:
            logger.info("%d arrays %s: %s", len(paths), what, summary(paths))
    filled = [
        jax.device_put(have[path].astype(x.dtype), getattr(x, "sharding", None))
        if path in have
        else x
        for path, x in want.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(fresh), filled)


def graft(guided: PyTree, baseline: PyTree) -> PyTree:
    """Returns the variables of an IPG model with all arrays of its trained plain baseline.

    The guidance stays as it is in `guided`: of a model with `fusion_init="identity"` the outputs
    are then those of the baseline, bit by bit.

    Args:
      guided: fresh variables of the IPG model.
      baseline: variables of the same model without `fusion_stages`.

    Raises:
      ValueError: something else than the guidance differs.
    """
    return merge(guided, baseline, missing=GUIDANCE)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Arrays of a trained model in this package's layout, and what is known of them.

    Attributes:
      arrays: by path in the model (`model_arrays`). What the reader of a file did not know keeps
        its name there, and so counts as unexpected.
      class_names: of the head's classes, in their order; empty if there are none or not known.
      sources: the name in the file of each array, if it had another.
      left_out: what of the file is not needed, and why.
      absent: regular expression of the paths that such a file never has, as a classifier of whole
        images has no heads.
      detector: of a file that is a whole detector, what else it takes to use it, as JSON values:
        the `config` of its training, `categories`, `thresholds` and a text `about` it.
    """

    arrays: Mapping[str, Array]
    class_names: tuple[str, ...] = ()
    sources: Mapping[str, str] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    absent: str = ""
    detector: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, variables: PyTree, class_names: Sequence[str] = ()) -> Weights:
        """Returns the weights of a model here, `{"params": ..., "batch_stats": ...}`."""
        return cls(model_arrays(variables), tuple(class_names))


def initialize(
    fresh: PyTree,
    weights: Weights,
    *,
    class_names: Sequence[str] = (),
    missing: str = "",
    unexpected: str = "",
) -> PyTree:
    """Returns the variables `fresh` with the values of trained weights (see `merge`).

    Heads that were trained for other classes are taken apart: the rows of classes with the same
    name (see `match_classes`) are carried over, the others stay fresh. Where either side's names
    are not known, rows are carried over in their order.

    Args:
      fresh: variables of the model to fill.
      weights: of a file (`load_weights`) or of another model (`Weights.of`).
      class_names: of the model to fill, in the order of its labels.
      missing: regular expression of whole paths that may stay fresh, besides those that a file of
        this kind never has.
      unexpected: regular expression of whole paths that are not needed.

    Raises:
      ValueError: an array is missing, unexpected or of another shape (`differences`).
    """
    arrays = dict(weights.arrays)
    if weights.class_names and class_names:
        arrays = match_classes(arrays, model_arrays(fresh), weights.class_names, class_names)
    exempt = "|".join(f"(?:{pattern})" for pattern in (missing, weights.absent) if pattern)
    return merge(fresh, {"params": arrays}, missing=exempt, unexpected=unexpected)


def summary(paths: Iterable[str]) -> str:
    """Returns how many of the paths there are in each module, `fpn/lateral3 (2), ...`."""
    counts = collections.Counter("/".join(path.split("/")[:2]) for path in sorted(paths))
    return ", ".join(f"{module} ({count})" for module, count in counts.items())
