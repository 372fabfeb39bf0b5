"""The documentation's snippets on exported detectors, in a process without this package."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from ipg_jax.inference.prediction import Prediction

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "export.md"

PROGRAM = """
import sys

for name in {hidden}:
    sys.modules[name] = None  # as if it were not installed

import numpy as np

{before}
{snippet}
np.savez("found.npz", **found)
"""


def run_snippet(
    imports: str,
    folder: pathlib.Path,
    *,
    hidden: Sequence[str],
    picture: np.ndarray | None = None,
    names: dict[str, str] | None = None,
) -> tuple[dict[str, np.ndarray], str]:
    """Runs the snippet of docs/export.md that begins with these imports.

    Args:
      imports: its first lines.
      folder: where to run it.
      hidden: packages that cannot be imported there, beside Flax and this one.
      picture: what the snippet's `picture` is, if it does not read one itself.
      names: files of the snippet, and what they are called in the folder.

    Returns:
      What it found in its one image, and what it printed.
    """
    begin = re.escape(f"```python\n{imports}")
    (snippet,) = re.findall(begin + "(.*?)```", PAGE.read_text(), re.DOTALL)
    snippet = imports + snippet
    for old, new in (names or {}).items():
        assert old in snippet
        snippet = snippet.replace(old, new)
    before = ""
    if picture is not None:
        np.save(folder / "picture.npy", picture)
        before = 'picture = np.load("picture.npy")'
    program = PROGRAM.format(hidden=("flax", "ipg_jax", *hidden), before=before, snippet=snippet)
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    found = np.load(folder / "found.npz")
    return {name: values[0] for name, values in found.items()}, result.stdout


def assert_like(found: dict[str, np.ndarray], own: Prediction) -> None:
    """Asserts that a detector's own objects are the first of those found."""
    count = len(own)
    assert found["valid"][:count].all()
    np.testing.assert_array_equal(found["labels"][:count], own.labels)
    np.testing.assert_allclose(found["scores"][:count], own.scores, rtol=1e-4)
    np.testing.assert_allclose(found["boxes"][:count], own.boxes, rtol=1e-4, atol=1e-3)
