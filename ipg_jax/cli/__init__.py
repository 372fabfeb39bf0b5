"""Command lines of the package, `python -m ipg_jax.cli.NAME`."""
