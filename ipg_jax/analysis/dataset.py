"""`python -m ipg_jax.analysis.dataset`: looks at a data set before anything is trained on it.

The program is `ipg_jax.cli.inspect`, which reads the config; nothing here imports it.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("ipg_jax.cli.inspect", run_name="__main__", alter_sys=True)
