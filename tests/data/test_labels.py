"""Labels are checked where their values are known: when a source is made."""

import dataclasses

import numpy as np
import pytest
from memory_source import MemorySource

from ipg_jax.data import DataReport, Rule, Source


class LabelledSource(MemorySource):
    """The memory source with other labels."""

    def __init__(self, label: int, *, ignore: bool = False):
        records = MemorySource(4).records
        labels = records.labels.copy()
        labels[-1] = label
        Source.__init__(
            self,
            name="labelled",
            class_names=["one", "two"],
            category_ids=[1, 2],
            records=dataclasses.replace(
                records, labels=labels, ignore=np.full(len(labels), ignore)
            ),
            report=DataReport("labelled"),
        )


def test_every_class_is_a_label():
    assert LabelledSource(1).records.labels[-1] == np.int32(1)


@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_label_that_is_no_class_is_an_error(label: int):
    with pytest.raises(ValueError, match=rf"labelled: labels count the 2 classes .* have {label}$"):
        LabelledSource(label)


def test_the_number_of_classes_is_the_label_of_a_region_of_no_class():
    assert LabelledSource(2, ignore=True).records.labels[-1] == 2
    with pytest.raises(ValueError, match=r"have 3$"):
        LabelledSource(3, ignore=True)


def test_objects_of_a_class_become_regions():
    source = LabelledSource(1)
    other = source.ignoring(["one"])
    assert (other.class_names, other.category_ids, other.name) == (("two",), (2,), "labelled")
    # Five objects of class one, then one of class two.
    np.testing.assert_array_equal(other.records.labels, [1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(other.records.ignore, [True] * 5 + [False])
    assert other.report.counts == {Rule.IGNORED_CLASS: 5}
    assert len(other.records.objects(3).boxes) == 3
    # The source itself is as it was, and a region stays one.
    np.testing.assert_array_equal(source.records.labels, [0, 0, 0, 0, 0, 1])
    assert (source.class_names, source.report.counts) == (("one", "two"), {})
    again = LabelledSource(2, ignore=True).ignoring(["two"])
    np.testing.assert_array_equal(again.records.labels, [0, 0, 0, 0, 0, 1])
    assert source.ignoring([]) is source
