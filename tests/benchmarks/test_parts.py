"""The runner of measurements, on parts that need no JAX."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
SCRIPT = f"""
import os, subprocess, sys, time
sys.path.insert(0, {str(BENCHMARKS)!r})
from parts import Part, main


def good(dry):
    print("noise that is no figure")
    yield {{"first": {{"seconds": 1.5, "toy": dry}}}}
    yield {{"second": {{"seconds": 2.5}}}}


def wrong(dry):
    yield {{"first": {{"seconds": 0.5}}}}
    raise ValueError("the card\\nis on fire")


def gone(dry):
    print("out of everything", file=sys.stderr, flush=True)
    os._exit(3)
    yield


def slow(dry):
    yield {{"first": {{"seconds": 0.25}}}}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print("CHILD", child.pid, file=open(os.environ["CHILD"], "w"))
    time.sleep(60)


PARTS = [
    Part("good", 30, good),
    Part("wrong", 30, wrong),
    Part("gone", 30, gone),
    Part("slow", 3, slow),
    Part("theirs", 30, good, side="torch"),
    Part("too long", 1e6, good),
]
main(__doc__, PARTS, __file__, budget=60.0, table=lambda results: "TABLE")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns what all parts left: the JSON file, what was printed, the child of `slow`."""
    folder = tmp_path_factory.mktemp("parts")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    result = subprocess.run(
        [sys.executable, script, f"--json={folder / 'found.json'}"],
        env={"CHILD": str(folder / "child"), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads((folder / "found.json").read_text()), result.stdout, folder / "child"


def part(run, name):
    return next(part for part in run[0]["parts"] if part["name"] == name)


def test_figures_are_told_and_kept(run):
    good = part(run, "good")
    assert good["status"] == "done"
    assert good["error"] == ""
    assert good["figures"] == {"first": {"seconds": 1.5, "toy": False}, "second": {"seconds": 2.5}}


def test_a_failed_part_keeps_its_figures_and_its_error(run):
    wrong = part(run, "wrong")
    assert wrong["status"] == "failed"
    assert wrong["error"] == "ValueError: the card"
    assert wrong["figures"] == {"first": {"seconds": 0.5}}


def test_a_process_that_dies_is_told_with_its_last_words(run):
    gone = part(run, "gone")
    assert gone["status"] == "failed"
    assert gone["error"] == "exit code 3, last line: out of everything"


def test_a_part_is_killed_at_its_limit_with_all_that_it_started(run):
    slow = part(run, "slow")
    assert slow["status"] == "killed"
    assert slow["figures"] == {"first": {"seconds": 0.25}}
    assert slow["seconds"] < 30
    child = run[2].read_text().split()[1]
    state = pathlib.Path("/proc", child, "stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_has_no_interpreter_or_no_time_is_not_run(run):
    theirs = part(run, "theirs")
    if importlib.util.find_spec("torch"):
        assert theirs["status"] == "done"
    else:
        assert theirs["status"] == "not run"
        assert theirs["error"] == "torch is not installed here: see --torch-python"
    late = part(run, "too long")
    assert late["status"] == "not run"
    assert "of the budget" in late["error"]


def test_flags_that_name_nothing_are_refused(run):
    script = run[2].with_name("script.py")
    for flag, said in (
        ("--torch-python=/none/python", "--torch-python=/none/python: there is no such program"),
        ("--only=best*", "--only=best*: no part has such a name, see --list"),
    ):
        result = subprocess.run(
            [sys.executable, script, flag], capture_output=True, text=True, check=False
        )
        assert result.returncode == 2
        assert said in result.stderr


def test_the_last_line_is_the_file(run):
    lines = run[1].splitlines()
    assert lines[-2] == "TABLE"
    assert json.loads(lines[-1])["parts"] == run[0]["parts"]
