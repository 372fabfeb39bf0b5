"""Flags of the command lines that look at a trained run: its config is that of the workdir."""

from __future__ import annotations

import argparse

from absl import flags
from ml_collections import config_flags

from ipg_jax.training.build_trained import read_trained_config
from ipg_jax.training.command_line import home

HELP = "A config in the place of the workdir's own, whose model it must have."


def parse_with_trained_config(arguments: list[str]) -> list[str]:
    """Defines `--config`, parses all flags and returns what is left; for `program.run`.

    `--config.a.b=value` changes the config that `--config` names. Without it that is the
    `config.json` of `--workdir`.

    Args:
      arguments: of the program, its name first.

    Raises:
      ValueError: `config.json` is damaged.
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("workdir", "config"):
        early.add_argument(f"--{name}", f"-{name}", nargs="?")
    known, _ = early.parse_known_args(arguments[1:])
    trained = None
    if known.workdir and known.config is None:
        trained = read_trained_config(home(known.workdir))
    options = {"help_string": HELP, "lock_config": True, "sys_argv": arguments}
    if trained is None:
        config_flags.DEFINE_config_file("config", None, **options)
    else:
        config_flags.DEFINE_config_dict("config", trained, **options)
    return flags.FLAGS(arguments)
