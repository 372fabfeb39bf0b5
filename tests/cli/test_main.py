"""`ipg-jax`: its commands, the names of configs, and a wheel in a folder of its own."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from ipg_jax.cli.config_files import config_files, with_config_files
from ipg_jax.cli.configs import list_configs
from ipg_jax.cli.main import COMMANDS, main

ROOT = pathlib.Path(__file__).parents[2]


def run_main(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["ipg-jax", *arguments])
    main()


def test_names_of_configs_stand_for_their_files():
    digits = config_files()["digits_ipg"]
    assert pathlib.Path(digits).read_text() == (ROOT / "configs" / "digits_ipg.py").read_text()
    assert with_config_files(["x", "--config=digits_ipg", "--config.seed=3", "a"]) == [
        "x",
        f"--config={digits}",
        "--config.seed=3",
        "a",
    ]
    assert with_config_files(["--config", "digits_ipg:stages=2"]) == [
        "--config",
        f"{digits}:stages=2",
    ]
    for file in ("configs/digits_ipg.py", "mine.py:a=b", "./mine", "/x/digits_ipg"):
        assert with_config_files([f"--config={file}"]) == [f"--config={file}"]
    with pytest.raises(ValueError, match=r"neither a file nor one .*; did you mean digits_ipg"):
        with_config_files(["--config=digits_igp"])


def test_all_configs_are_listed_with_what_they_are():
    lines = list_configs().splitlines()
    names = {path.stem for path in (ROOT / "configs").glob("*_*.py")} - {"__init__"}
    assert {line.split()[0] for line in lines} == names
    assert all(re.fullmatch(r"\w+ {2,}\S.+", line) for line in lines)


def test_help_names_each_command_and_others_are_refused(monkeypatch, capsys):
    for arguments in ((), ("--help",)):
        run_main(monkeypatch, *arguments)
        output = capsys.readouterr().out
        assert all(f"  {name} " in output for name in COMMANDS)
    with pytest.raises(SystemExit) as stopped:
        run_main(monkeypatch, "trian")
    assert stopped.value.code == 2
    assert "'trian' is no command" in capsys.readouterr().err


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> pathlib.Path:
    """What the wheel puts into site-packages."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("ipg_jax", "configs"):  # building leaves files beside them
        shutil.copytree(ROOT / name, folder / "clone" / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone")
    build = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder]
    subprocess.run([sys.executable, *build, folder / "clone"], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def run(installed, tmp_path):
    """Runs a command of the installed package in an empty folder and returns what it prints."""

    def run_command(*arguments: str) -> str:
        program = "import sys; from ipg_jax.cli.main import main; main()"
        result = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(installed)},
            capture_output=True,
            text=True,
        )
        assert result.returncode in (0, 1), result.stderr  # 1 after --help
        return result.stdout + result.stderr

    return run_command


def test_the_wheel_works_in_an_empty_folder(run, tmp_path):
    assert "digits_ipg " in run("configs")
    output = run("train", "--help")
    assert "ipg-jax train --config=digits_ipg --workdir=runs/digits" in output
    assert "--[no]benchmark_input" in output
    report = run("inspect", "--config=digits_ipg", "--config.data.train_scenes=5")
    assert "5 images" in report
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", [False, True])
def test_the_wheel_works_beside_a_folder_of_own_configs(run, tmp_path, package):
    folder = tmp_path / "configs"
    folder.mkdir()
    if package:
        (folder / "__init__.py").touch()
    (folder / "mine.py").write_text(
        "from configs.digits_ipg import get_config as digits\n"
        "from configs.sizes import SCENES\n\n\n"
        "def get_config():\n"
        "    config = digits()\n"
        "    config.data.train_scenes = SCENES\n"
        "    return config\n"
    )
    (folder / "sizes.py").write_text("SCENES = 6\n")
    printed = run("train", "--config=digits_ipg", "--config.data.train_scenes=5", "--print_config")
    assert "--config.data.train_scenes=5" in printed.splitlines()
    printed = run("train", "--config=configs/mine.py", "--print_config")
    assert "--config.data.train_scenes=6" in printed.splitlines()
