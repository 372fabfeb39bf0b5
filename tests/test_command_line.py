"""The command lines as a user meets them, in processes of their own."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs import digits_ipg
from ipg_jax.training.command_line import initialize_distributed

ROOT = pathlib.Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )


def users_error(*command: str) -> str:
    """What a command says that ends in an error of the user's; without a traceback."""
    result = run(*command)
    assert result.returncode == 2, result.stderr
    _, found, error = result.stderr.rpartition("error: ")
    assert found, result.stderr
    assert "Traceback" not in result.stderr
    return error


@pytest.mark.parametrize("script", ["train.py", "eval.py", "predict.py"])
def test_help_says_what_it_does_and_how(script: str):
    result = run(script, "--help")
    output = result.stdout + result.stderr
    assert f"python {script} --{'config' if script == 'train.py' else 'workdir'}=" in output
    assert "--workdir" in output
    assert "--[no]traceback" in output


@pytest.mark.parametrize(
    ("script", "flags"),
    [("train.py", "config workdir"), ("eval.py", "workdir"), ("predict.py", "workdir out")],
)
def test_required_flags_are_named(script: str, flags: str):
    error = users_error(script)
    assert all(f"--{flag} must have a value" in error for flag in flags.split())


@pytest.mark.parametrize("script", ["eval.py", "predict.py"])
def test_another_model_than_that_of_the_workdir_is_refused(script: str, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(digits_ipg.get_config().to_json())
    flags = ("--workdir=~/run", "--config.eval.scales=((64, 64),)", "--config.model.anchor_scale=2")
    rest = ("--out=~/out", "a.png") if script == "predict.py" else ()
    error = users_error(script, *flags, *rest)
    assert "config.model.anchor_scale: trained with 3.0, given 2.0" in error
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]
    assert not (tmp_path / "out").exists()


def test_a_config_is_checked_before_anything_is_read(tmp_path):
    error = users_error(
        "train.py",
        "--config=configs/retinanet_ipg.py",
        f"--workdir={tmp_path}",
        "--config.image_size=64",
        "--config.log_every=0",
    )
    assert error.startswith("config.image_size is a pair (short, long)")
    assert "config.log_every is a whole number from 1 on, not 0" in error


def test_a_misspelt_override_suggests_the_nearest_name(tmp_path):
    config = "--config=configs/digits_ipg.py"
    error = users_error("train.py", config, f"--workdir={tmp_path}", "--config.model.backbnoe=18")
    assert error.startswith("there is no such field of the config: ")
    assert 'Did you mean "backbone" instead of "backbnoe"?' in error
    assert "\n" not in error.strip()


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_a_flag_without_its_dashes_is_refused(script: str, tmp_path):
    error = users_error(
        script, "--config=configs/digits_ipg.py", f"--workdir={tmp_path}", "config.num_steps=5"
    )
    assert "'config.num_steps=5' is no flag" in error


def test_an_override_by_an_old_name_says_the_new_one(tmp_path):
    config = "--config=configs/digits_ipg.py"
    error = users_error("train.py", config, f"--workdir={tmp_path}", "--config.model.head_convs=1")
    assert error.startswith("config.model.head_convs is now config.model.retinanet_head.convs")


def test_the_config_is_printed_as_it_would_be_used():
    result = run("train.py", "--config=digits_ipg:stages=2", "--print_config", "--config.seed=5")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "--config.seed=5" in lines
    assert "--config.model.fusion_stages=(2,)" in lines
    assert "--config.num_epochs=12.0" in lines
    given = [line for line in lines if not line.endswith("=None")]
    again = run("train.py", "--config=retinanet_ipg", "--print_config", *given)
    assert again.stdout == result.stdout, again.stderr


def test_fields_that_are_not_set_can_be_overridden():
    program = (
        "import json, ipg_jax.cli.train as train; from absl import app; app.run(lambda _: print("
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
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    monkeypatch.setenv("JAX_PROCESS_ID", "one")
    with pytest.raises(ValueError, match="JAX_PROCESS_ID is a whole number, not 'one'"):
        initialize_distributed(False)
