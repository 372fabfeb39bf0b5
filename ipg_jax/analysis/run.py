"""`python -m ipg_jax.analysis.run`: writes the report of a trained run.

The program is `ipg_jax.cli.report`, which reads the run's config; nothing here imports it.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("ipg_jax.cli.report", run_name="__main__", alter_sys=True)
