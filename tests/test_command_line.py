"""The command lines as a user meets them, in processes of their own."""

import os
import pathlib
import subprocess
import sys

import pytest

from ipg_jax.training.command_line import initialize_distributed

ROOT = pathlib.Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py"])
def test_help_says_what_it_does_and_how(script: str):
    result = run(script, "--help")
    output = result.stdout + result.stderr
    assert f"python {script} --config=" in output
    assert "--workdir" in output


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py"])
def test_required_flags_are_named(script: str):
    result = run(script)
    assert result.returncode != 0
    assert "--config" in result.stderr
    assert "--workdir" in result.stderr


def test_a_misspelt_override_suggests_the_nearest_name(tmp_path):
    config = "--config=configs/digits_ipg.py"
    result = run("train.py", config, f"--workdir={tmp_path}", "--config.model.dpeth=18")
    assert result.returncode != 0
    assert 'Did you mean "depth" instead of "dpeth"?' in result.stderr


def test_the_package_imports_without_tensorflow():
    result = run("-c", "import sys, ipg_jax; print('tensorflow' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_half_an_address_of_the_other_hosts_is_an_error(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1234")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        initialize_distributed(False)
