"""One of several processes that measure together; prints what it found.

The model is left out: a step is a sum over the global batch, for which all processes have to meet.
Process 1 takes longer to read a batch.
"""

import time

import jax
import jax.numpy as jnp
from tiny_run import make_tiny_config

from ipg_jax.training import benchmark, command_line

command_line.start()
build_train_batches = benchmark.build_train_batches


def read_slowly(*arguments):
    for batch in build_train_batches(*arguments):
        time.sleep(0.1 * jax.process_index())
        yield batch


@jax.jit
def step(state, batch, key):
    return state + 1, batch.pyramid[0].astype(jnp.float32).sum()


benchmark.build_train_batches = read_slowly
benchmark.build_state = lambda *_: lambda key: jnp.zeros(())
benchmark.abstract_state = lambda *_: jax.eval_shape(jnp.zeros, ())
benchmark.build_train_step = lambda *_: step
print(*benchmark.run(make_tiny_config(), seconds=1.0))
