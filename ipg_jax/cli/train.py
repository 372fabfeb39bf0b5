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
from ml_collections import ConfigDict, config_flags

from ipg_jax.cli import program

CONFIG = config_flags.DEFINE_config_file("config", None, "What to train.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, local or gs://.")
DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Join the other hosts of this job (TPU pod, SLURM, Kubernetes)."
)
STOPPED_CODE = flags.DEFINE_integer(
    "stopped_code", 0, "Exit code of a run that SIGTERM stopped before its end.", 0, 255
)
PROFILE = flags.DEFINE_string(
    "profile",
    None,
    "Write a trace of these steps, such as 20:25, into the workdir's folder profile/steps_20_25/, "
    "for TensorBoard or Perfetto.",
)
PRINT_CONFIG = flags.DEFINE_bool(
    "print_config",
    False,
    "Print all fields of the config as they would be used, one a line (None: not set), and stop. "
    "Needs no --workdir.",
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
    from ipg_jax.training.build_checks import checked

    if PRINT_CONFIG.value:
        print(format_config(CONFIG.value))
        return
    profile = parse_steps(PROFILE.value)
    command_line.start(distributed=DISTRIBUTED.value)
    config = checked(CONFIG.value)
    from ipg_jax.training.benchmark import measure_and_print
    from ipg_jax.training.build_runs import build_train_run
    from ipg_jax.training.build_trained import check_same_model
    from ipg_jax.training.train import train

    if BENCHMARK_INPUT.value:
        run = build_train_run(config, evaluate=False)
        measure_and_print(run, BENCHMARK_SECONDS.value)
        return
    assert WORKDIR.value is not None  # by the validator
    workdir = command_line.home(WORKDIR.value)
    check_same_model(config, workdir)
    if not train(build_train_run(config), workdir, profile=profile):
        sys.exit(STOPPED_CODE.value)


def format_config(config: ConfigDict) -> str:
    """Returns a line for each field of a config, as a command line would set it."""
    from ipg_jax.training.build_checks import checked
    from ipg_jax.training.build_compat import leaves

    return "\n".join(f"--config.{path}={value}" for path, value in leaves(checked(config)))


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """Returns the steps that `first:last` names.

    Raises:
      ValueError: the text is of another form.
    """
    if text is None:
        return None
    first, colon, last = text.partition(":")
    if not (first.isdecimal() and colon and last.isdecimal()):
        raise ValueError(f"--profile={text} is not of the form first:last, such as 20:25")
    return int(first), int(last)


def run() -> None:
    """Parses the flags and trains."""
    flags.mark_flag_as_required("config")
    flags.register_multi_flags_validator(
        ["workdir", "benchmark_input", "print_config"],
        lambda values: any(values.values()),
        "--workdir must have a value, unless there is --benchmark_input or --print_config",
    )
    program.run(main, __name__)
