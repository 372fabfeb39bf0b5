"""Data: sources with random access, and the tf.data pipeline that makes batches of them.

Importing this package imports TensorFlow and hides its GPUs.
"""

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
from ipg_jax.data.input_pipeline import (
    eval_batches,
    global_batch_records,
    train_batches,
    train_example,
)
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
    TfdsSource,
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
