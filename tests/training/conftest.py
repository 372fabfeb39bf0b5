import signal
from collections.abc import Iterator

import pytest
from ml_collections import ConfigDict
from tiny_run import make_tiny_config


@pytest.fixture
def tiny_config() -> ConfigDict:
    return make_tiny_config()


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Python's own Ctrl-C, which shells ignore in what they start in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
