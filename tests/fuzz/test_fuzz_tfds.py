"""Damaged records of TFDS: dropped and counted, or refused by name."""

import random

import pytest
from made_tfds import examples, features, rewritten, store
from mutators import limited_memory, mutate_bytes, outcome
from same_data import is_silent

from ipg_jax.data import TfdsSource


@pytest.fixture
def records(tmp_path):
    """The one file of a data set of two images, of which one has an object."""
    builder = store("boxes", tmp_path, features(), examples("val"))
    (path,) = builder.info.splits["train"].filepaths
    return path


def read(records):
    return TfdsSource("boxes", "train", data_dir=records.parents[2], threads=2)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_files(file_format, tmp_path):
    """A file has checksums, so nothing of it changes without a word."""
    builder = store("boxes", tmp_path, features(), examples("val"), file_format=file_format)
    (records,) = builder.info.splits["train"].filepaths
    sound = read(records)
    assert len(sound) == 2
    assert len(sound.records.boxes) == 1
    data = records.read_bytes()
    with limited_memory():
        for seed in range(60):
            records.write_bytes(mutate_bytes(random.Random(seed), data))
            found = outcome(lambda: read(records), "boxes", records.name)
            assert found is None or not is_silent(found, sound), f"seed {seed}"


def test_records_with_sound_checksums(records):
    data = records.read_bytes()
    with limited_memory():
        for seed in range(40):
            rng = random.Random(seed)
            damaged = rewritten(data, lambda i, record, rng=rng: mutate_bytes(rng, record))
            records.write_bytes(damaged)
            found = outcome(lambda: read(records), "boxes", records.name)
            if found is not None:
                for index in range(len(found)):
                    found.try_load_image(index)
