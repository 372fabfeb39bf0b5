"""Evaluates a detector, see `python eval.py --help`; in an installed package `ipg-jax eval`."""

import ipg_jax.cli.eval as command

if __name__ == "__main__":
    command.run()
