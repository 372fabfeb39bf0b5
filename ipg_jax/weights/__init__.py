"""Trained weights: read from files, fitted to a model, written in this package's layout.

    weights = load_weights("resnet50.pth")
    variables = initialize(task.init(rng), weights, class_names=source.class_names)

`ipg-jax weights --help` shows what a file holds and converts it.
"""

from ipg_jax.weights.classes import COCO_CLASSES, match_classes
from ipg_jax.weights.files import SUFFIXES, is_weights, load_detector, load_weights, save_weights
from ipg_jax.weights.layouts import convert
from ipg_jax.weights.merge import (
    GUIDANCE,
    Weights,
    by_path,
    differences,
    graft,
    initialize,
    merge,
    model_arrays,
)
from ipg_jax.weights.models import Model, known_models, locate

__all__ = [
    "COCO_CLASSES",
    "GUIDANCE",
    "SUFFIXES",
    "Model",
    "Weights",
    "by_path",
    "convert",
    "differences",
    "graft",
    "initialize",
    "is_weights",
    "known_models",
    "load_detector",
    "load_weights",
    "locate",
    "match_classes",
    "merge",
    "model_arrays",
    "save_weights",
]
