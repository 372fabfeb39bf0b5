"""What command lines show: the package's lines with their time."""

import logging
import re

from ipg_jax.training.command_line import setup_logging


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
