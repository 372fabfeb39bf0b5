"""Heads of detectors."""

from ipg_jax.models.heads.box import BoxHead, BoxOutputs
from ipg_jax.models.heads.retinanet import DenseOutputs, RetinaNetHead
from ipg_jax.models.heads.rpn import RPNHead

__all__ = ["BoxHead", "BoxOutputs", "DenseOutputs", "RPNHead", "RetinaNetHead"]
