"""Configs: one file per result that a user may want; none imports ipg_jax."""
