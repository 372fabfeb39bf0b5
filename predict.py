"""Detects objects, see `python predict.py --help`; in an installed package `ipg-jax predict`."""

import ipg_jax.cli.predict as command

if __name__ == "__main__":
    command.run()
