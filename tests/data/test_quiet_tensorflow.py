"""TensorFlow is imported late, and without a word of what it does not do here."""

import os
import subprocess
import sys

import pytest

from ipg_jax import data
from ipg_jax.data.quiet_tensorflow import without_start_up_notes


def test_start_up_notes_are_left_out_and_nothing_else(capfd):
    with without_start_up_notes():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\n")
        os.write(2, b"I0000 00:00:1795923855.401554   14258 port.cc:153] oneDNN\nfirst\n")
        os.write(2, b"second\n")
        os.write(2, b"E0000 00:00:1795923861.83 14258 cuda_platform.cc:52] failed\nI am third\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "first\nsecond\nI am third\nafter\n"


def test_what_was_written_before_an_error_is_shown(capfd):
    def fail():
        with without_start_up_notes():
            os.write(2, b"a reason\n")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert capfd.readouterr().err == "a reason\n"


def test_a_process_may_have_no_standard_error(monkeypatch):
    def closed(descriptor):
        raise OSError(f"bad file descriptor {descriptor}")

    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(os, "dup", closed)
    ran = []
    with without_start_up_notes():
        ran.append("inside")
    assert ran


def test_only_batches_tfds_and_stores_import_tensorflow():
    code = """
import sys
import ipg_jax.files
from ipg_jax import analysis, data
from ipg_jax.training import build_analysis, build_data, build_report, build_runs, evaluate, train
source = data.DigitsSource("train", num_scenes=2)
assert source.load_image(0).any() and data.make_augmentations(["mosaic"])
assert not {"tensorflow", "tensorflow_datasets"} & sys.modules.keys()
try:
    ipg_jax.files.exists("s3://bucket/x")  # by TensorFlow, which has no such client
except OSError:
    pass
assert "tensorflow" in sys.modules
data.train_batches
data.TfdsSource
assert "tensorflow_datasets" in sys.modules
"""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_names_that_data_lacks_are_errors():
    with pytest.raises(AttributeError, match="no attribute 'CocoSuorce'"):
        _ = data.CocoSuorce
    assert {"TfdsSource", "CocoSource", "train_batches"} <= set(dir(data))
