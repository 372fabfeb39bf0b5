import pytest

from ipg_jax import kernels


@pytest.fixture(autouse=True)
def _one_form_of_each_kernel():
    """Programs that are known to run on CPUs take half as long to trace."""
    with kernels.lowered_for("cpu"):
        yield
