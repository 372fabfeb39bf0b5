"""The program that exports a detector: what it says, when it fails. The demo's test runs it."""

import subprocess
import sys

import pytest

from ipg_jax.cli.export import judged
from ipg_jax.inference.export import Difference


@pytest.mark.parametrize("name", ["savedmodel", "onnx", "litert"])
def test_what_is_not_offered_says_why_and_what_is(name, tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "ipg_jax.cli.export"),
            *(f"--workdir={tmp_path}", f"--format={name}"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f"error: --format={name} is not offered: " in result.stderr
    assert "--format=stablehlo" in result.stderr


def test_too_large_a_difference_ends_in_a_failure():
    near, far = Difference(20, 1e-6, 2e-5), Difference(20, 1e-6, 0.02)
    assert judged([near], 0.01) == "all within 2.0e-05; --tolerance is 0.01"
    for differences in ([near, far], [near, Difference(1, float("nan"), 0.0)]):
        with pytest.raises(SystemExit, match=r"more than --tolerance=0\.01") as stopped:
            judged(differences, 0.01)
        assert isinstance(stopped.value.code, str)  # printed, with the exit code 1
    assert "nothing could be compared" in judged([Difference(0, 0.0, 0.0)], 0.01)
