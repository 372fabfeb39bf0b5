"""The command lines as a user meets them, in processes of their own."""

import json
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
    result = run("train.py", config, f"--workdir={tmp_path}", "--config.model.backbnoe=18")
    assert result.returncode != 0
    assert 'Did you mean "backbone" instead of "backbnoe"?' in result.stderr


def test_an_override_by_an_old_name_says_the_new_one(tmp_path):
    config = "--config=configs/digits_ipg.py"
    result = run("train.py", config, f"--workdir={tmp_path}", "--config.model.head_convs=1")
    assert result.returncode != 0
    assert "config.model.head_convs is now config.model.retinanet_head.convs" in result.stderr


def test_fields_that_are_not_set_can_be_overridden():
    program = (
        "import json, train; from absl import app; app.run(lambda _: print("
        "train.CONFIG.value.to_json()))"
    )
    flags = {
        "num_steps": 7,
        "init_from": "a/b.pth",
        "data.class_names": "('a', 'b')",
        "model.fpn_levels": "(3, 5)",
        "model.guidance_channels": 32,
        "optimizer.clip_norm": 2,
        "eval.scales": "((500, 800), (600, 1000))",
        "mesh.data": 2,
    }
    overrides = [f"--config.{name}={value}" for name, value in flags.items()]
    result = run("-c", program, "--config=configs/retinanet_ipg.py", *overrides)
    config = json.loads(result.stdout)
    assert config["num_steps"] == 7
    assert config["init_from"] == "a/b.pth"
    assert config["data"]["class_names"] == ["a", "b"]
    assert config["model"]["fpn_levels"] == [3, 5]
    assert config["model"]["guidance_channels"] == 32
    assert config["optimizer"]["clip_norm"] == 2.0
    assert config["eval"]["scales"] == [[500, 800], [600, 1000]]
    assert config["mesh"] == {"data": 2, "fsdp": None, "space": 1}


def test_the_package_imports_without_tensorflow():
    result = run("-c", "import sys, ipg_jax; print('tensorflow' in sys.modules)")
    assert result.stdout.strip() == "False", result.stderr


def test_half_an_address_of_the_other_hosts_is_an_error(monkeypatch):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "127.0.0.1:1234")
    with pytest.raises(ValueError, match="JAX_NUM_PROCESSES, JAX_PROCESS_ID"):
        initialize_distributed(False)
