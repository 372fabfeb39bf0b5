"""The data sets that are damaged are made as in the tests of the data."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
