"""Configs: one file per result that a user may want; none imports ipg_jax.

In an installed package this is `ipg_jax.configs`, and its files still find each other as `configs`.
"""

import sys

sys.modules.setdefault("configs", sys.modules[__name__])
