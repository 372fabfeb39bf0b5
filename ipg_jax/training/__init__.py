"""Training runs: building from a config, sharded steps, checkpoints, metrics and the loop."""
