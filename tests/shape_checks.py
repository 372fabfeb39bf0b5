"""The type checker of the import hook in `conftest.py`."""

from collections.abc import Callable
from typing import Any

from beartype import beartype


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its arguments and result checked, but for functions in functions.

    Those would be decorated anew each time that the outer one is called, which took a tenth of all
    tests.
    """
    return function if "<locals>" in function.__qualname__ else beartype(function)
