"""Runs: built from a config, trained, evaluated, and what they leave in a workdir."""
