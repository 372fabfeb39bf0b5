"""Export to ONNX where something is missing; `onnx_conversion.py` is where nothing is."""

import sys
import types

import pytest
from tiny_detectors import SIZE, tiny_detector

from ipg_jax.inference.export import whole_sizes
from ipg_jax.inference.onnx_export import export_onnx, onnx_detect


def test_what_is_not_installed_is_said(monkeypatch):
    hint = r"pip install 'ipg-jax\[onnx\]' && pip install --no-deps jax2onnx"
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ModuleNotFoundError, match=f"jax2onnx.*: {hint}"):
        export_onnx(tiny_detector(), SIZE)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=f"onnxruntime.*: {hint}"):
        onnx_detect({})


def test_what_is_not_converted_says_what_does_without_it(monkeypatch):
    def to_onnx(*_, **__):
        raise NotImplementedError("no plugin for sort")

    converter = types.SimpleNamespace(to_onnx=to_onnx)  # one that lacks an operation
    monkeypatch.setitem(sys.modules, "jax2onnx", converter)
    with pytest.raises(ValueError, match=r"\(no plugin for sort\): --format=stablehlo"):
        export_onnx(tiny_detector(), SIZE)


def test_there_is_a_size_for_landscape_and_one_for_portrait():
    assert whole_sizes(tiny_detector()) == ((64, 96), (96, 64))
