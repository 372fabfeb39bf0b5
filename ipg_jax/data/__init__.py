"""Data: sources with random access, and the tf.data pipeline that makes batches of them.

TensorFlow is imported, and its GPUs are hidden, when the first name that needs it is used: batches
and `TfdsSource`; or by `ipg_jax.files` for a path of a store, such as `gs://`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ipg_jax.data.augmentations import (
    AUGMENTATIONS,
    Augmentation,
    ColorJitter,
    CopyPaste,
    Example,
    FlipVertical,
    GaussianBlur,
    GaussianNoise,
    Images,
    JpegCompression,
    Mosaic,
    RandomCrop,
    Rotate90,
    ScaleJitter,
    make_augmentations,
    option,
)
from ipg_jax.data.crop import Window, crop_objects
from ipg_jax.data.repeats import repeat_factors
from ipg_jax.data.sources import (
    CocoSource,
    DataReport,
    DigitsSource,
    HuggingFaceSource,
    Objects,
    Part,
    Records,
    Rule,
    Source,
    VocSource,
    YoloSource,
)
from ipg_jax.data.tiles import ImageCache, TiledSource
from ipg_jax.data.unreadable import (
    UnreadableImagesError,
    UnreadableWindow,
    check_evaluated,
    check_listed,
)

if TYPE_CHECKING:
    from ipg_jax.data.input_pipeline import (
        eval_batches,
        global_batch_records,
        train_batches,
        train_example,
    )
    from ipg_jax.data.sources.tfds import TfdsSource

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "CocoSource",
    "ColorJitter",
    "CopyPaste",
    "DataReport",
    "DigitsSource",
    "Example",
    "FlipVertical",
    "GaussianBlur",
    "GaussianNoise",
    "HuggingFaceSource",
    "ImageCache",
    "Images",
    "JpegCompression",
    "Mosaic",
    "Objects",
    "Part",
    "RandomCrop",
    "Records",
    "Rotate90",
    "Rule",
    "ScaleJitter",
    "Source",
    "TfdsSource",
    "TiledSource",
    "UnreadableImagesError",
    "UnreadableWindow",
    "VocSource",
    "Window",
    "YoloSource",
    "check_evaluated",
    "check_listed",
    "crop_objects",
    "eval_batches",
    "global_batch_records",
    "make_augmentations",
    "option",
    "repeat_factors",
    "train_batches",
    "train_example",
]

_LATER = {
    "TfdsSource": "ipg_jax.data.sources.tfds",
    "eval_batches": "ipg_jax.data.input_pipeline",
    "global_batch_records": "ipg_jax.data.input_pipeline",
    "train_batches": "ipg_jax.data.input_pipeline",
    "train_example": "ipg_jax.data.input_pipeline",
}
"""Names whose modules need TensorFlow, which are imported when the names are asked for."""


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
