"""Trains a detector: `python train.py --config=configs/NAME.py[:k=v,...] --workdir=DIR`.

Fields of the config are overridden by `--config.a.b=value`. The same command goes on with a run
that was stopped.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of this job (TPU pod, SLURM, Kubernetes)."
)
STOPPED_CODE = flags.DEFINE_integer(
    "stopped_code", 0, "Exit code of a run that SIGTERM stopped before its end.", 0, 255
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start(distributed=DISTRIBUTED.value)
    from ipg_jax.training import loop

    if loop.train(CONFIG.value, WORKDIR.value) is None:
        sys.exit(STOPPED_CODE.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
