"""What command lines show: the package's lines with their time, and no start-up notes."""

import logging
import os
import re

import pytest

from ipg_jax.training.command_line import setup_logging, without_start_up_notes


def test_start_up_notes_are_left_out_and_nothing_else(capfd):
    with without_start_up_notes():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\n")
        os.write(2, b"I0000 00:00:1795923855.401554   14258 port.cc:153] oneDNN\nfirst\n")
        os.write(2, b"second\n")
        os.write(2, b"E0000 00:00:1795923861.83 14258 cuda_platform.cc:52] failed\nI am third\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "first\nsecond\nI am third\nafter\n"


def test_what_was_written_before_an_error_is_shown(capfd):
    def fail():
        with without_start_up_notes():
            os.write(2, b"a reason\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capfd.readouterr().err == "a reason\n"


def test_lines_have_a_time_and_tables_a_line_of_their_own(capsys):
    package = logging.getLogger("ipg_jax")
    before = package.handlers, package.propagate, package.level
    try:
        setup_logging(primary=True)
        logging.getLogger("ipg_jax.x").info("one of %d", 3)
        logging.getLogger("ipg_jax.x").info("class  AP\ncat    1.0")
    finally:
        package.handlers, package.propagate, package.level = before
    time = r"\d\d:\d\d:\d\d"
    assert re.fullmatch(
        rf"{time} one of 3\n{time}\nclass  AP\ncat    1.0\n", capsys.readouterr().err
    )
