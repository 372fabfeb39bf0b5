"""Notebooks as they are committed; `.ci/run` executes them."""

import json
import pathlib
import re

import pytest

NOTEBOOKS = sorted(pathlib.Path(__file__).parents[1].joinpath("notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_those_of_one_run_and_small(path: pathlib.Path):
    again = f"run python tools/run_notebooks.py, which stores the outputs of {path.name}"
    cells = [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)], again
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {
        "stream",
        "execute_result",
        "display_data",
    }, again
    assert [output for output in outputs if output.get("name") == "stderr"] == [], again
    assert not re.search(r"(?<![\w.])/(tmp|home|root)/", json.dumps(outputs)), again
    assert path.stat().st_size < 500_000
