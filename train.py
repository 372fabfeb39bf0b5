"""Trains a detector, see `python train.py --help`; in an installed package `ipg-jax train`."""

import ipg_jax.cli.train as command

if __name__ == "__main__":
    command.run()
