"""Trains a detector: `python train.py --config=configs/NAME.py[:k=v,...] --workdir=DIR`.

    ipg-jax train --config=digits_ipg --workdir=runs/digits
    ipg-jax train --config=bccd_ipg --workdir=runs/bccd --config.data.root=BCCD

`--config` takes a file or the name of one that comes with the package (`ipg-jax configs`). Fields
of the config are overridden by `--config.a.b=value`. The same command goes on with a run that was
stopped. With `--benchmark_input` it trains nothing and says whether the input or the training step
is what a run waits for.
"""

import sys

from absl import flags
from ml_collections import config_flags

from ipg_jax.cli import program

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of this job (TPU pod, SLURM, Kubernetes)."
)
STOPPED_CODE = flags.DEFINE_integer(
    "stopped_code", 0, "Exit code of a run that SIGTERM stopped before its end.", 0, 255
)
BENCHMARK_INPUT = flags.DEFINE_bool(
    "benchmark_input",
    False,
    "Instead of training, measure images/s of the input pipeline alone, of the training step alone "
    "and of both together, on the config's own data and devices, and say which of the two is the "
    "bottleneck. Writes nothing; needs no --workdir.",
)
BENCHMARK_SECONDS = flags.DEFINE_float(
    "benchmark_seconds", 10.0, "How long --benchmark_input measures each of the three.", 0.0
)


def main(_: list[str]) -> None:
    """Runs the command line."""
    from ipg_jax.training import command_line

    command_line.start(distributed=DISTRIBUTED.value)
    with command_line.without_start_up_notes():
        from ipg_jax.training.benchmark import measure_and_print
        from ipg_jax.training.build_runs import build_train_run
        from ipg_jax.training.train import train

    if BENCHMARK_INPUT.value:
        run = build_train_run(CONFIG.value, evaluate=False)
        measure_and_print(run, BENCHMARK_SECONDS.value)
        return
    assert WORKDIR.value is not None  # by the validator
    if not train(build_train_run(CONFIG.value), command_line.home(WORKDIR.value)):
        sys.exit(STOPPED_CODE.value)


def run() -> None:
    """Parses the flags and trains."""
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "benchmark_input"],
        lambda values: values["benchmark_input"] or values["workdir"] is not None,
        "--workdir must have a value, unless there is --benchmark_input",
    )
    program.run(main, __name__)
