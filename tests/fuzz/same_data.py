"""Whether two sources hold the same data, and whether a difference was reported."""

import numpy as np

from ipg_jax.data import Source


def is_same(a: Source, b: Source) -> bool:
    """Whether two sources have the same classes, images and objects."""
    lists = ("image_ids", "file_names")
    arrays = ("sizes", "offsets", "boxes", "labels", "ignore", "area")
    return (
        (a.class_names, a.category_ids) == (b.class_names, b.category_ids)
        and all(getattr(a.records, name) == getattr(b.records, name) for name in lists)
        and all(np.array_equal(getattr(a.records, n), getattr(b.records, n)) for n in arrays)
    )


def is_silent(damaged: Source, sound: Source) -> bool:
    """Whether damage changed the data and no line of the report says so."""
    return damaged.report.counts == sound.report.counts and not is_same(damaged, sound)
