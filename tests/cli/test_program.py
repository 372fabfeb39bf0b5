"""Which errors end a command line in one line, and which in their traceback."""

import importlib.util
import subprocess
import sys

import pytest
from absl import flags
from ml_collections import config_flags

from configs.common import default_config
from ipg_jax.cli.program import is_users, users_errors_in_one_line
from ipg_jax.data import UnreadableImagesError
from ipg_jax.training.build_checks import checked
from ipg_jax.training.metrics import DivergedError


def line_of(capsys, action) -> str:
    """What a command line says in its only line, and with the exit code of a user's error."""
    with pytest.raises(SystemExit) as ended, users_errors_in_one_line():
        action()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def wrong_config() -> None:
    config = default_config()
    config.log_every = 0
    checked(config)


def fail(error: Exception) -> None:
    raise error


def test_errors_of_config_files_and_runs_take_one_line(capsys, tmp_path):
    assert line_of(capsys, wrong_config).startswith("error: config.log_every is a whole number ")
    assert line_of(capsys, (tmp_path / "gone").read_bytes).endswith(
        f"{tmp_path}/gone: No such file or directory"
    )
    for error in (DivergedError("step 3"), UnreadableImagesError("step 3")):
        assert line_of(capsys, lambda error=error: fail(error)) == "error: step 3"


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # of ml_collections
@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("gone.py", "error: [Errno 2] No such file or directory: 'gone.py'"),
        ("configs/digits_ipg.py:fusoin=sum", "did you mean 'fusion'?"),
        ("configs/digits_ipg.py:depth=x", "error: config argument 'depth=x': invalid literal"),
    ],
)
def test_errors_of_the_flag_of_the_config_take_one_line(capsys, monkeypatch, flag, line):
    arguments = ["train.py", f"--config={flag}"]
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=arguments)

    def read() -> None:
        values(arguments)
        values.config.to_dict()

    assert line in line_of(capsys, read)


def test_the_flag_shows_where_it_was_raised(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "--traceback"])
    with pytest.raises(ValueError, match="log_every"), users_errors_in_one_line():
        wrong_config()


def test_errors_that_come_out_of_a_library_are_faults_of_the_program(tmp_path):
    path = tmp_path / "made.py"
    path.write_text(
        "def refuse():\n    raise ValueError(\n        'config.seed'\n    )\n"
        "def library():\n    int('x')\n"
        "def unexpected():\n    raise RuntimeError('x')\n"
    )

    def error_of(module_name: str, function: str) -> Exception:
        spec = importlib.util.spec_from_file_location(module_name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        with pytest.raises(Exception, match=r"config\.seed|x") as caught:
            getattr(module, function)()
        return caught.value

    assert is_users(error_of("ipg_jax.made", "refuse"))
    assert not is_users(error_of("other.made", "refuse"))
    assert not is_users(error_of("ipg_jax.made", "library"))
    assert not is_users(error_of("ipg_jax.made", "unexpected"))
    with pytest.raises(ValueError, match="invalid literal"), users_errors_in_one_line():
        int("x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", "error: {}, line 1: invalid syntax"),
        ("", "error: the file that --config names has no function get_config"),
        ("def get_config(): return None", "has to return a ConfigDict, not NoneType"),
        ("def get_config(): return 3", "has to return a ConfigDict, not int"),
    ],
)
def test_files_that_are_no_configs_take_one_line(text, message, tmp_path):
    file = tmp_path / "broken.py"
    file.write_text(text)
    command = [sys.executable, "-m", "ipg_jax.cli.configs", f"--config={file}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert message.format(file) in line
