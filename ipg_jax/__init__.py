"""ipg_jax: small-object detection with image-pyramid guidance (IPG-Net) in JAX and Flax.

    import ipg_jax

    task = ipg_jax.build_task(config)
    variables = task.init(rng)
    loss, metrics = task.loss(variables, batch, rng=rng)
    detections = task.predict(variables, pyramid, image_size)

Importing the package does not import TensorFlow; `ipg_jax.data` does.
"""

from ipg_jax import models, ops, tasks, types
from ipg_jax.training.build import build_task
from ipg_jax.types import Batch, Detections

__version__ = "0.2.0"

__all__ = ["Batch", "Detections", "build_task", "models", "ops", "tasks", "types"]
