import pytest
from ml_collections import ConfigDict
from tiny_run import make_tiny_config


@pytest.fixture
def tiny_config() -> ConfigDict:
    return make_tiny_config()
