"""TensorFlow, for the modules that use it: imported where it is first needed, and without a word.

    from ipg_jax.data.quiet_tensorflow import tf

Its import takes some seconds, so that only what needs it imports this module.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

__all__ = ["tf", "without_start_up_notes"]


@contextlib.contextmanager
def without_start_up_notes() -> Iterator[None]:
    """Leaves out what TensorFlow says when it is imported, on the GPUs that it does not use here.

    It writes to the process's standard error before any of its settings for logs are heeded.
    Everything else that is written there in this context appears at its end.
    """
    try:
        original = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    _flush()
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            _flush()
            os.dup2(original, 2)
            os.close(original)
            file.seek(0)
            written = file.read().decode(errors="replace")
            rest = [line for line in written.splitlines() if not _NOTE.match(line)]
            if rest:
                print("\n".join(rest), file=sys.stderr)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


_NOTE = re.compile(r"WARNING: All log messages before absl|[IWE]\d{4} \d\d:\d\d:\d+\.")
"""How the lines of TensorFlow's C++ code begin."""

with without_start_up_notes():
    import tensorflow as tf

    # TensorFlow would otherwise take the memory of every GPU away from JAX.
    tf.config.set_visible_devices([], "GPU")
