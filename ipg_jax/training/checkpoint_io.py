"""How a state is written to a checkpoint, and read from it, by Orbax."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from ipg_jax.text import shown
from ipg_jax.training.checkpoint_files import STATE, write_checksums
from ipg_jax.training.state import TrainState
from ipg_jax.types import PyTree
from ipg_jax.weights import by_path, differences

# By default each device with a copy writes a slice of it, for which the first checkpoint compiles
# a program for each shape while the training waits.
_TYPE_HANDLERS = ocp.type_handlers.create_type_handler_registry(
    (jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False)),
)


class StateHandler(ocp.PyTreeCheckpointHandler):
    """Writes a state, and the checksums of its files before the checkpoint becomes visible."""

    def __init__(self, *, checksums: bool) -> None:
        super().__init__(type_handler_registry=_TYPE_HANDLERS)
        self._checksums = checksums

    def finalize(self, directory: epath.Path) -> None:
        """Completes a checkpoint; called in the primary process alone."""
        super().finalize(directory)
        if self._checksums:
            write_checksums(directory)


@ocp.args.register_with_handler(StateHandler, for_save=True)
@dataclasses.dataclass
class SaveArgs(ocp.args.PyTreeSave):
    """What `StateHandler` saves."""


@ocp.args.register_with_handler(StateHandler, for_restore=True)
@dataclasses.dataclass
class RestoreArgs(ocp.args.PyTreeRestore):
    """What `StateHandler` could restore; Orbax wants both."""


def restore_state(folder: epath.Path, template: TrainState) -> Any:
    """Returns the state in a folder `checkpoints/<step>`, on the devices as `template` is.

    Raises:
      ValueError: it has another structure or other shapes, or cannot be read.
    """
    stored = by_path(_read_metadata(folder))
    like = template
    if template.ema is not None and not any(path.startswith("ema/params/") for path in stored):
        like = template.replace(ema=template.ema["params"])  # version 0.1 averaged these alone
    problems = differences(by_path(like), stored)
    if problems:
        raise ValueError(
            f"checkpoint {folder.name} in {folder.parent} does not fit this config's model or "
            "optimizer:\n  " + "\n  ".join(problems)
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
    )
    arguments = ocp.checkpoint_utils.construct_restore_args(abstract)
    state = _read_arrays(folder, ocp.args.PyTreeRestore(abstract, arguments))
    if like is not template:
        # Copies, as those of `TrainState.create`.
        batch_stats = jax.tree.map(jnp.copy, state.batch_stats)
        state = state.replace(ema={"params": state.ema, "batch_stats": batch_stats})
    return state


def read_numpy(folder: epath.Path) -> Any:
    """Returns the state in a folder `checkpoints/<step>` as NumPy arrays in dicts.

    Raises:
      ValueError: it cannot be read.
    """
    arguments = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray), _read_metadata(folder)
    )
    return _read_arrays(folder, ocp.args.PyTreeRestore(restore_args=arguments))


def _read_metadata(folder: epath.Path) -> PyTree:
    """Returns the state in a folder `checkpoints/<step>` with shapes in place of arrays."""
    with _damage_named(folder), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.metadata(folder / STATE).tree


def _read_arrays(folder: epath.Path, arguments: ocp.args.PyTreeRestore) -> Any:
    """Returns the state in a folder `checkpoints/<step>`."""
    with _damage_named(folder), contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
        return handler.restore(folder / STATE, args=arguments)


@contextlib.contextmanager
def _damage_named(folder: epath.Path) -> Iterator[None]:
    """Turns errors of reading a checkpoint, which are of many kinds, into one that names it."""
    try:
        yield
    except jax.errors.JaxRuntimeError:  # of the devices, such as no memory left
        raise
    except Exception as error:
        reason = shown(str(error).strip().partition("\n")[0])
        raise ValueError(
            f"{folder} cannot be read, it seems to be damaged ({type(error).__name__}: {reason}). "
            "Move this folder away to go on from the next older checkpoint"
        ) from error
