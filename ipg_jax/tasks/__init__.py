"""Tasks: a detector with its targets, losses and post-processing.

Every task has `init(rng)`, `loss(variables, batch, rng=)`, `loss_and_updates(...)`,
`predict(variables, pyramid, image_size)`, `num_classes` and `pyramid_levels`.
"""

from ipg_jax.tasks.retinanet import RetinaNetTask

__all__ = ["RetinaNetTask"]
