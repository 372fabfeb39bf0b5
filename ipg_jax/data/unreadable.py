"""How many images may be missing or unreadable before a run is not worth going on with.

One limit, `config.data.max_unreadable`, holds three times: of the images that the annotations list,
when a source is opened; of the last images of a training run; of all images of an evaluation.
"""

from __future__ import annotations

import collections

from ipg_jax.data.sources.base import LOST, Source
from ipg_jax.errors import RunStoppedError

WINDOW = 1000
"""How many of the last images a training run is judged by: enough for chance to play no part."""

_NAMED = 5


class UnreadableImagesError(RunStoppedError):
    """More images are missing or unreadable than `config.data.max_unreadable` allows."""


def check_listed(source: Source, max_unreadable: float) -> None:
    """Checks how many of the images that a source's annotations list were left out.

    Args:
      source: the data set.
      max_unreadable: largest share, 0 to 1.

    Raises:
      UnreadableImagesError: more were.
    """
    lost, listed = source.report.lost, source.expected_images
    if lost > max_unreadable * listed:
        lines = "\n  ".join(source.report.lines(LOST))
        raise UnreadableImagesError(
            f"{lost} of {listed} images of {source.report.origin} cannot be used, more than "
            f"config.data.max_unreadable={max_unreadable} allows:\n  {lines}\nsee to these files "
            f"and to the paths in config.data, or raise config.data.max_unreadable to go on with "
            f"the other {listed - lost}"
        )


def check_evaluated(source: Source, evaluated: int, max_unreadable: float) -> None:
    """Checks how many of the images that a source's annotations list were evaluated.

    Args:
      source: the data set.
      evaluated: how many were, of all processes.
      max_unreadable: largest share that was not, 0 to 1.

    Raises:
      UnreadableImagesError: more were not.
    """
    if source.expected_images - evaluated > max_unreadable * source.expected_images:
        raise UnreadableImagesError(
            f"{evaluated} of {source.expected_images} images of {source.report.origin} were "
            f"evaluated, and config.data.max_unreadable={max_unreadable} allows no more to be "
            f"missing or unreadable.{_failures(source)}\nSee to these files, or raise "
            "config.data.max_unreadable for figures over less than the data set"
        )


class UnreadableWindow:
    """Stops a training run of whose last images too many could not be read.

    The window is the newest steps with together `WINDOW` images, or with as many as the data set
    has, if fewer. Too many are more than the allowed share of these images; a run that has not seen
    so many yet is judged as if the rest will be fine. Counts are of the global batch, so that all
    processes stop at the same step. Nothing else depends on the window: a run that is stopped goes
    on from its last checkpoint as any other.
    """

    def __init__(self, source: Source, max_unreadable: float):
        """Begins an empty window.

        Args:
          source: the training data.
          max_unreadable: largest share, 0 to 1.
        """
        self._source = source
        self._share = max_unreadable
        self._size = min(WINDOW, len(source))
        self._steps: collections.deque[tuple[int, int]] = collections.deque()

    def add(self, step: int, images: int, unreadable: int) -> None:
        """Counts a step's images.

        Args:
          step: for the message.
          images: in the global batch.
          unreadable: how many of them.

        Raises:
          UnreadableImagesError: of the window, too many are unreadable.
        """
        self._steps.append((images, unreadable))
        total = sum(count for count, _ in self._steps)
        while total - self._steps[0][0] >= self._size:
            total -= self._steps.popleft()[0]
        lost = sum(count for _, count in self._steps)
        if lost > self._share * max(total, self._size):
            raise UnreadableImagesError(
                f"step {step}: {lost} of the last {total} images of {self._source.report.origin} "
                f"could not be read, more than config.data.max_unreadable={self._share} allows."
                f"{_failures(self._source)}\nSee to these files and start the same command again: "
                "it goes on from the last checkpoint. Or raise config.data.max_unreadable"
            )


def _failures(source: Source) -> str:
    """The newest images that failed, a line each."""
    named = source.failures[-_NAMED:]
    if not named:
        return " This process had none of them: see what the others say."
    more = len(source.failures) - len(named)
    rest = [f"and {more} more in this process"] if more else []
    return "".join(f"\n  {line}" for line in [*named, *rest])
