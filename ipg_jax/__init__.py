"""ipg_jax: small-object detection with image-pyramid guidance (IPG-Net) in JAX and Flax.

    import ipg_jax

    detector = ipg_jax.Detector.load(workdir)  # of a training run
    found = detector.predict("street.jpg")  # boxes, scores, labels, names

    task = ipg_jax.build_task(config)
    variables = task.init(rng)
    loss, metrics = task.loss(variables, batch, rng=rng)
    detections = task.predict(variables, pyramid, image_size)

TensorFlow, whose import takes seconds, is imported when batches or `TfdsSource` of `ipg_jax.data`
are first used, or a path of a store such as `gs://`. Models, tasks, operators and the training step
need neither that nor `ml_collections`, which `build_task` reads configs with.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ipg_jax import models, ops, tasks, types
from ipg_jax.types import Batch, Detections

if TYPE_CHECKING:
    from ipg_jax import data, evaluation, images, kernels, layers, visualize, weights
    from ipg_jax.inference.detector import Detector
    from ipg_jax.training.build import build_task

__version__ = "0.2.0"

__all__ = [
    "Batch",
    "Detections",
    "Detector",
    "build_task",
    "data",
    "evaluation",
    "images",
    "kernels",
    "layers",
    "models",
    "ops",
    "tasks",
    "types",
    "visualize",
    "weights",
]

_LATER = {
    "Detector": "ipg_jax.inference.detector",
    "build_task": "ipg_jax.training.build",
}
"""Names that are imported when they are asked for, and from where; modules of `__all__` too."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
