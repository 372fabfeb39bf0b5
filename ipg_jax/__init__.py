"""ipg_jax: small-object detection with image-pyramid guidance (IPG-Net) in JAX and Flax.

    import ipg_jax

    task = ipg_jax.build_task(config)
    variables = task.init(rng)
    loss, metrics = task.loss(variables, batch, rng=rng)
    detections = task.predict(variables, pyramid, image_size)

Importing the package does not import TensorFlow; `ipg_jax.data` does. Models, tasks, operators and
the training step need neither that nor `ml_collections`, which `build_task` reads configs with.
"""

from typing import TYPE_CHECKING, Any

from ipg_jax import models, ops, tasks, types
from ipg_jax.types import Batch, Detections

if TYPE_CHECKING:
    from ipg_jax.training.build import build_task

__version__ = "0.2.0"

__all__ = ["Batch", "Detections", "build_task", "models", "ops", "tasks", "types"]


def __getattr__(name: str) -> Any:
    if name != "build_task":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ipg_jax.training.build import build_task

    return build_task
