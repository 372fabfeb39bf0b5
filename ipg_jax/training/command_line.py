"""What the command lines do before their work: join the other hosts, set up messages."""

from __future__ import annotations

import logging
import os

import absl.logging
import jax


def start(*, distributed: bool = False) -> None:
    """Prepares the process; call it before anything else of JAX or TensorFlow.

    Args:
      distributed: let JAX find the other hosts (see `initialize_distributed`).
    """
    absl.logging.set_verbosity(absl.logging.WARNING)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what TensorFlow has to say of GPUs
    initialize_distributed(distributed)
    setup_logging(primary=jax.process_index() == 0)


def home(path: str) -> str:
    """Returns the path with the home folder in the place of a leading `~`.

    Shells do so for `~/x`, and not for `--workdir=~/x`.

    Raises:
      ValueError: there is no such user as `~name` says.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise ValueError(f"{path}: there is no such home folder (./{path} is a file of that name)")
    return expanded


def initialize_distributed(detect: bool) -> None:
    """Joins the processes of a multi-host run; call it before anything else of JAX.

    Args:
      detect: let JAX find its peers (TPU pods, SLURM, Kubernetes, Open MPI). Without it, the
        environment may name them: `JAX_COORDINATOR_ADDRESS` (host:port of process 0),
        `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. With neither, the process runs alone.

    Raises:
      ValueError: only some of the three variables are set, or one is not a whole number.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    given = [name for name in names if name in os.environ]
    if detect:
        jax.distributed.initialize()
    elif len(given) == len(names):
        address, count, index = (os.environ[name] for name in names)
        for name, value in zip(names[1:], (count, index), strict=True):
            if not value.isdecimal():
                raise ValueError(f"{name} is a whole number, not {value!r}")
        jax.distributed.initialize(address, int(count), int(index))
    elif given:
        missing = sorted(set(names) - set(given))
        raise ValueError(f"{', '.join(given)} set without {', '.join(missing)}: set all or none")


def setup_logging(primary: bool) -> None:
    """Lets the package's own messages through, with the time, and other libraries' warnings only.

    Args:
      primary: whether this is the process that speaks for the run; the others only warn.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("%(message)s"))
    package = logging.getLogger("ipg_jax")
    package.handlers = [handler]
    package.propagate = False
    package.setLevel(logging.INFO if primary else logging.WARNING)


class _Formatter(logging.Formatter):
    """Begins tables on a line of their own, so that the time does not move their heads."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        separator = "\n" if "\n" in text else " "
        return f"{self.formatTime(record, '%H:%M:%S')}{separator}{text}"
