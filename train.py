"""Trains a detector: `python train.py --config=configs/NAME.py[:k=v,...] --workdir=DIR`.

Fields of the config are overridden by `--config.a.b=value`. The same command goes on with a run
that was stopped.
"""

from absl import app, flags
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of this job (TPU pod, SLURM, Kubernetes)."
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start(distributed=DISTRIBUTED.value)
    from ipg_jax.training import loop

    loop.train(CONFIG.value, WORKDIR.value)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
