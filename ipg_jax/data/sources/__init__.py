"""Data sets: annotations in memory, images by position.

`TfdsSource` is in `ipg_jax.data`, and imports TensorFlow.
"""

from ipg_jax.data.sources.base import DataReport, Objects, Records, Rule, Source
from ipg_jax.data.sources.coco import CocoSource
from ipg_jax.data.sources.digits import DigitsSource
from ipg_jax.data.sources.huggingface import HuggingFaceSource
from ipg_jax.data.sources.part import Part
from ipg_jax.data.sources.voc import VocSource
from ipg_jax.data.sources.yolo import YoloSource

__all__ = [
    "CocoSource",
    "DataReport",
    "DigitsSource",
    "HuggingFaceSource",
    "Objects",
    "Part",
    "Records",
    "Rule",
    "Source",
    "VocSource",
    "YoloSource",
]
