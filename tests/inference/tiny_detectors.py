"""Detectors of seconds with random weights, and pictures for them."""

import functools

import jax
import numpy as np

import ipg_jax
from configs import digits_ipg
from configs.common import two_stage
from ipg_jax.inference.detector import Detector

SIZE = (64, 96)
"""Limits of the (short, long) side, so that there are landscape and portrait images."""


@functools.cache
def tiny_detector(kind: str = "retinanet", **model: str) -> Detector:
    """Returns a detector of a kind, with other values of fields of `config.model`."""
    config = digits_ipg.get_config("stages=2").unlock()
    config.model.backbone, config.model.base_channels = "resnet10", 8
    config.model.fpn_levels, config.model.fpn_channels = (3, 4), 16
    config.model.retinanet_head.convs, config.model.retinanet_head.channels = 1, 32
    config.model.update(model)
    config.eval.score_threshold = 0.0
    config.eval.max_detections = 20
    if kind != "retinanet":
        two_stage(config, kind)
        config.model.rpn.candidates = config.model.rpn.proposals = (30, 30)
        config.model.box_head.fc_channels = 16
    task = ipg_jax.build_task(config.lock())
    rng = np.random.default_rng(0)

    def noise(path, leaf):
        """Weights that keep the size of activations; boxes near their anchors, in the image."""
        name, fan_in = path[-1].key, max(1, np.prod(leaf.shape[:-1]))
        values = rng.normal(0, 1, leaf.shape)
        if name == "kernel":
            values *= (0.2 if "deltas" in path[-2].key else 1.4) / np.sqrt(fan_in)
        elif name == "var":
            values = 1 + np.abs(values)
        else:
            values = 0.1 * values + (name == "scale")
        return values.astype(leaf.dtype)

    shapes = jax.eval_shape(task.init, jax.random.key(0))
    variables = jax.tree_util.tree_map_with_path(noise, shapes)
    names = [f"digit {i}" for i in range(10)]
    thresholds = [i / 20 for i in range(10)]
    return Detector(
        task, variables, class_names=names, image_size=SIZE, threshold=thresholds, batch_size=3
    )


def pictures() -> list[np.ndarray]:
    """Landscape, portrait and square; larger, smaller, odd and as large as the input."""
    rng = np.random.default_rng(0)
    sizes = [(64, 96), (70, 50), (61, 91), (128, 190), (33, 33)]
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
