"""The errors that end a run for what it is made of, and for no fault of the program."""

from __future__ import annotations


class RunStoppedError(RuntimeError):
    """A run stopped because of its data or its settings; the message says what to change."""
