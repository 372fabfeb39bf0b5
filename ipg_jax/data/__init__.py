"""Data: sources with random access, and the tf.data pipeline that makes batches of them.

Importing this package imports TensorFlow and hides its GPUs.
"""

from ipg_jax.data.augment import AUGMENTATIONS, Augmentation, Example, check_augmentations
from ipg_jax.data.crop import Window, crop_objects
from ipg_jax.data.images import (
    IMAGE_SUFFIXES,
    ImageOptions,
    decode_image,
    read_image_header,
)
from ipg_jax.data.input_pipeline import (
    eval_batches,
    global_batch_records,
    prepare_image,
    train_batches,
)
from ipg_jax.data.repeats import repeat_factors
from ipg_jax.data.sources import (
    CocoSource,
    DataReport,
    DigitsSource,
    Objects,
    Records,
    Rule,
    Source,
    TfdsSource,
    VocSource,
)
from ipg_jax.data.transforms import padding_multiple
from ipg_jax.data.unreadable import (
    UnreadableImagesError,
    UnreadableWindow,
    check_evaluated,
    check_listed,
)

__all__ = [
    "AUGMENTATIONS",
    "IMAGE_SUFFIXES",
    "Augmentation",
    "CocoSource",
    "DataReport",
    "DigitsSource",
    "Example",
    "ImageOptions",
    "Objects",
    "Records",
    "Rule",
    "Source",
    "TfdsSource",
    "UnreadableImagesError",
    "UnreadableWindow",
    "VocSource",
    "Window",
    "check_augmentations",
    "check_evaluated",
    "check_listed",
    "crop_objects",
    "decode_image",
    "eval_batches",
    "global_batch_records",
    "padding_multiple",
    "prepare_image",
    "read_image_header",
    "repeat_factors",
    "train_batches",
]
