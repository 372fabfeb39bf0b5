"""One of several processes that measure together; prints what it found.

The model is left out: a step is a sum over the global batch, for which all processes have to meet.
Process 1 takes longer to read a batch.
"""

import dataclasses
import time

import jax
import jax.numpy as jnp
from tiny_run import make_tiny_config

from ipg_jax.training import command_line
from ipg_jax.training.benchmark import measure_and_print
from ipg_jax.training.build_runs import build_train_run

command_line.start()
run = build_train_run(make_tiny_config(), evaluate=False)


def read_slowly(start_step):
    for batch in run.batches(start_step):
        time.sleep(0.1 * jax.process_index())
        yield batch


@jax.jit
def step(state, batch, key):
    return state + 1, batch.pyramid[0].astype(jnp.float32).sum()


run_without_model = dataclasses.replace(
    run,
    batches=read_slowly,
    init_state=lambda key: jnp.zeros(()),
    template=jax.eval_shape(jnp.zeros, ()),
    train_step=step,
)
print(*measure_and_print(run_without_model, seconds=1.0))
