"""What a run's folder holds of its training and its last evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ipg_jax.evaluation.ground_truth import Result
from ipg_jax.text import shown


class RunFigures(NamedTuple):
    """What a run's folder holds.

    Attributes:
      name: of the run.
      history: steps and values of each scalar of the training and its evaluations.
      step: of the evaluated checkpoint.
      metrics: COCO's, as `evaluation.evaluate_coco` returns them.
      results: the detections, in COCO's results format.
      parameters: how many the model has, by part.
      image_size: limits of the (short, long) side of its images, in pixels.
      class_names: what it was trained with.
      data: name of the data that it was evaluated on; None if the run does not say, as those of
        older versions.
      annotated: how many images their annotations list; the same.
      evaluated: how many images the evaluation saw; the same.
      score_threshold: detections of this score or less were dropped.
      max_detections: how many of an image the detector keeps at most.
    """

    name: str
    history: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    step: int
    metrics: Mapping[str, Any]
    results: Sequence[Result]
    parameters: Mapping[str, int]
    image_size: tuple[int, int]
    class_names: Sequence[str]
    data: str | None
    annotated: int | None
    evaluated: int | None
    score_threshold: float
    max_detections: int


def check_comparable(first: RunFigures, other: RunFigures) -> None:
    """Raises ValueError unless two runs have the same classes and saw equally many images."""
    if list(first.class_names) != list(other.class_names):
        names = [", ".join(map(shown, run.class_names)) for run in (first, other)]
        raise ValueError(
            f"--compare={shown(other.name)}: it was trained with the classes\n  {names[1]}\n"
            f"{shown(first.name)} with\n  {names[0]}"
        )
    counts = first.evaluated, other.evaluated
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(
            f"--compare={shown(other.name)}: it was evaluated on {counts[1]} images, and "
            f"{shown(first.name)} on {counts[0]}: python eval.py evaluates a run on other data "
            "(--config.data...)"
        )
