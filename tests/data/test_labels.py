"""Labels are checked where their values are known: when a source is made."""

import dataclasses

import numpy as np
import pytest
from memory_source import MemorySource

from ipg_jax.data import DataReport, Source


class LabelledSource(MemorySource):
    """The memory source with other labels."""

    def __init__(self, label: int):
        records = MemorySource(4).records
        labels = records.labels.copy()
        labels[-1] = label
        Source.__init__(
            self,
            name="labelled",
            class_names=["one", "two"],
            category_ids=[1, 2],
            records=dataclasses.replace(records, labels=labels),
            report=DataReport("labelled"),
        )


def test_every_class_is_a_label():
    assert LabelledSource(1).records.labels[-1] == np.int32(1)


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_label_that_is_no_class_is_an_error(label: int):
    with pytest.raises(ValueError, match=rf"labelled: labels count the 2 classes .* have {label}$"):
        LabelledSource(label)
