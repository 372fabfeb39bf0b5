import pathlib

import numpy as np
import pytest

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture
def golden(request):
    """Reference values for the module under test: `tests/golden/NAME.npz` for `test_NAME.py`."""
    name = request.path.stem.removeprefix("test_")
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)
