"""Data: sources with random access, and the tf.data pipeline that makes batches of them.

Importing this package imports TensorFlow and hides its GPUs.
"""

from ipg_jax.data.augment import AUGMENTATIONS, Augmentation, Example, check_augmentations
from ipg_jax.data.images import decode_image, read_file, read_image_size
from ipg_jax.data.input_pipeline import (
    eval_batches,
    global_batch_records,
    prepare_image,
    train_batches,
)
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

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "CocoSource",
    "DataReport",
    "DigitsSource",
    "Example",
    "Objects",
    "Records",
    "Rule",
    "Source",
    "TfdsSource",
    "VocSource",
    "check_augmentations",
    "decode_image",
    "eval_batches",
    "global_batch_records",
    "padding_multiple",
    "prepare_image",
    "read_file",
    "read_image_size",
    "train_batches",
]
