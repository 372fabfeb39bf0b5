import hashlib
import json
import os
import pathlib
import pickle
import struct
import subprocess
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from fake_torch import FakeTensor
from safetensors.numpy import save_file

from configs import digits_ipg
from ipg_jax import build_task
from ipg_jax.weights import Weights, files, load_weights, model_arrays, save_weights

STATE = {
    "conv1.weight": np.ones((2, 3, 7, 7), np.float32),
    "bn1.weight": np.ones(2, np.float32),
    "bn1.running_var": np.full(2, 0.5, np.float32),
    "layer1.0.conv1.weight": np.ones((2, 2, 1, 1), np.float32),
}


def test_weights_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "new" / "weights.safetensors"
    arrays = {"backbone/conv1/kernel": np.ones((2, 3)).T, "head/bias": np.float32([1, 2])}
    save_weights(path, Weights(arrays, ("a cat", "a dög")))
    loaded = load_weights(path)
    assert loaded.class_names == ("a cat", "a dög")
    assert loaded.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
    with pytest.raises(ValueError, match="written as"):
        save_weights(tmp_path / "weights.npz", loaded)


def test_kernels_in_half_precision_and_vectors_as_they_were(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {
        "head/kernel": np.full((2, 3), 1 / 3, np.float32),
        "bn/var": np.full(3, 1e6, np.float32),
    }
    save_weights(path, Weights(arrays), half=True)
    found = load_weights(path).arrays
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["head/kernel"], np.float32(np.float16(1 / 3)))
    np.testing.assert_array_equal(found["bn/var"], arrays["bn/var"])
    for value in (1e5, np.nan):
        with pytest.raises(ValueError, match="head/kernel has values up to"):
            save_weights(path, Weights({"head/kernel": np.full((1, 1), value)}), half=True)


@pytest.mark.parametrize("text", ["[", "3", '{"config": {}}', "[" * 10**5])
def test_damaged_metadata_of_a_detector_are_named(tmp_path, text):
    path = tmp_path / "a.safetensors"
    metadata = {"format": "ipg_jax", "class_names": "[]", "detector": text}
    save_file({"x": np.ones(2, np.float32)}, path, metadata)
    with pytest.raises(ValueError, match=r"a.safetensors: detector in its metadata is no JSON"):
        load_weights(path)


def test_a_torch_model_in_safetensors_is_converted_to_float32(tmp_path):
    path = tmp_path / "resnet.safetensors"
    kinds = iter([np.float16, jnp.bfloat16, np.float64, np.float32])
    save_file({name: array.astype(next(kinds)) for name, array in STATE.items()}, path)
    loaded = load_weights(path)
    assert loaded.arrays["backbone/conv1/kernel"].shape == (7, 7, 3, 2)
    assert {array.dtype for array in loaded.arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(loaded.arrays["backbone/bn1/var"], 0.5)


def test_files_that_are_no_weights_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError):
        load_weights(path)
    path.write_bytes(b"not a sound file")
    with pytest.raises(ValueError, match=r"a.safetensors: not a sound"):
        load_weights(path)
    save_file({"x": np.ones(2, np.int8)}, path)
    with pytest.raises(ValueError, match=r"a.safetensors: x is I8"):
        load_weights(path)
    save_file({"x": np.ones(2, np.float32)}, path)
    with pytest.raises(ValueError, match=r"a.safetensors: .* no model .* x"):
        load_weights(path)
    with pytest.raises(ValueError, match=r"end in one of .safetensors, .pth"):
        load_weights(tmp_path / "a.npz")


def test_pth_without_torch_names_the_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"any")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install .ipg-jax\[torch\]"):
        load_weights(path)


def test_pth_is_read_by_the_loader_of_plain_tensors_only(tmp_path, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(b"a pickle")
    stored = {}

    def load(file, *, map_location, weights_only):
        assert file.read() == b"a pickle"
        assert (map_location, weights_only) == ("cpu", True)
        if isinstance(stored["value"], Exception):
            raise stored["value"]
        return stored["value"]

    torch = types.SimpleNamespace(load=load, is_tensor=lambda x: isinstance(x, FakeTensor))
    monkeypatch.setitem(sys.modules, "torch", torch)
    tensors = {name: FakeTensor(array) for name, array in STATE.items()}
    tensors["bn1.num_batches_tracked"] = FakeTensor(np.int64([3]))
    for stored["value"] in (tensors, {"model": tensors, "epoch": 3}):
        np.testing.assert_array_equal(load_weights(path).arrays["backbone/bn1/var"], 0.5)
    stored["value"] = pickle.UnpicklingError("Unsupported global")
    with pytest.raises(ValueError, match=r"a.pth: .*not of plain tensors only"):
        load_weights(path)
    stored["value"] = {"epoch": 3}
    with pytest.raises(ValueError, match=r"a.pth: holds no state_dict"):
        load_weights(path)


@pytest.fixture
def torch_loads(monkeypatch):
    """Lets a stand-in of torch load whatever is put into the list."""
    stored: list = []

    def load(file, **_):
        file.seek(0)
        return stored.pop()

    torch = types.SimpleNamespace(load=load, is_tensor=lambda x: isinstance(x, FakeTensor))
    monkeypatch.setitem(sys.modules, "torch", torch)
    return stored


def test_parameters_that_require_gradients_are_read(tmp_path, torch_loads):
    path = tmp_path / "a.pth"
    path.write_bytes(b"a pickle")
    torch_loads.append({name: FakeTensor(x, requires_grad=True) for name, x in STATE.items()})
    np.testing.assert_array_equal(load_weights(path).arrays["backbone/bn1/var"], 0.5)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (None, "holds no state_dict"),
        ({1: FakeTensor(np.ones(1))}, "holds no state_dict"),
        ({"a": FakeTensor(np.broadcast_to(np.float32(0), (1000, 10**6)))}, "declare 4000000000"),
        ({"a.weight": FakeTensor(np.ones(1))}, "of no model that is known"),
        (STATE | {"conv1.weight": np.ones((1, 1, 1))}, r"conv1.weight has the shape \(1, 1, 1\)"),
    ],
)
def test_what_torch_may_find_in_a_file_is_checked(tmp_path, torch_loads, state, message):
    path = tmp_path / "a.pth"
    path.write_bytes(b"a pickle")
    if state and isinstance(next(iter(state.values())), np.ndarray):
        state = {name: FakeTensor(x) for name, x in state.items()}
    torch_loads.append(state)
    with pytest.raises(ValueError, match=rf"a.pth: .*{message}"):
        load_weights(path)


def write_zip(path: pathlib.Path, records: dict[str, bytes], compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def test_archives_are_checked_before_they_are_unpacked(tmp_path, torch_loads):
    path = tmp_path / "a.pth"
    write_zip(path, {"a/data/0": bytes(2**24)}, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**15
    with pytest.raises(ValueError, match=r"a.pth: a/data/0 in it is compressed .* 16777216"):
        load_weights(path)
    # Nine entries of the directory at the end that name one record: more is declared than there is.
    write_zip(path, {"a": bytes(2**12)})
    record, end = (path.read_bytes().index(mark) for mark in (b"PK\1\2", b"PK\5\6"))
    content = path.read_bytes()
    entries = 9 * content[record:end]
    counts = struct.pack("<HHI", 9, 9, len(entries))
    path.write_bytes(content[:record] + entries + content[end:][:8] + counts + content[end:][16:])
    with pytest.raises(ValueError, match=r"a.pth: its records declare 36864 bytes, the file has"):
        load_weights(path)


def test_records_that_were_changed_are_found(tmp_path, torch_loads):
    path = tmp_path / "a.pth"
    write_zip(path, {"a": b"first record", "b": b"second record"})
    content = path.read_bytes()
    path.write_bytes(content.replace(b"second record", b"secund record"))
    with pytest.raises(ValueError, match=r"a.pth: damaged: b in it .*CRC-32"):
        load_weights(path)
    # Where no checksum is right, they were not computed, as torch can be told.
    other = content.replace(b"second record", b"secund record").replace(b"first rec", b"fitst rec")
    path.write_bytes(other)
    torch_loads.append({name: FakeTensor(array) for name, array in STATE.items()})
    assert "backbone/bn1/var" in load_weights(path).arrays


@pytest.mark.parametrize("names", [None, "[1]", '{"a": 1}', "[", "[" * 10**5])
def test_damaged_metadata_of_our_own_files_are_named(tmp_path, names):
    path = tmp_path / "a.safetensors"
    metadata = {"format": "ipg_jax"} | ({} if names is None else {"class_names": names})
    save_file({"x": np.ones(2, np.float32)}, path, metadata)
    with pytest.raises(ValueError, match=r"a.safetensors: class_names in its metadata is"):
        load_weights(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cls_logits.weight": None}, "nothing for its head/class_logits/kernel"),
        ({"cls_logits.bias": np.ones(7, np.float32)}, "class_logits do not fit each other"),
        ({"bbox_reg.bias": None}, "nothing for its head/box_deltas/bias"),
        (
            {"bbox_reg.weight": np.ones((9, 4, 1, 1), np.float32), "bbox_reg.bias": np.ones(9)},
            "bbox_reg.bias has 9 values, which does not fit",
        ),
    ],
)
def test_heads_whose_arrays_do_not_fit_are_named(tmp_path, changes, message):
    head = {
        "cls_logits.weight": np.ones((6, 4, 1, 1), np.float32),
        "cls_logits.bias": np.ones(6, np.float32),
        "bbox_reg.weight": np.ones((8, 4, 1, 1), np.float32),
        "bbox_reg.bias": np.ones(8, np.float32),
    }
    prefixes = {"cls": "head.classification_head.", "bbo": "head.regression_head."}
    state = {f"backbone.body.{name}": array for name, array in STATE.items()} | {
        prefixes[name[:3]] + name: array
        for name, array in (head | changes).items()
        if array is not None
    }
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"a.safetensors: .*{message}"):
        load_weights(path)


def test_the_published_files_without_epsilon_are_known(tmp_path, monkeypatch):
    path = tmp_path / "resnet.safetensors"
    save_file(STATE, path)
    assert load_weights(path).arrays["backbone/bn1/scale"][0] == 1.0
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(files, "NO_EPSILON", (*files.NO_EPSILON, digest[:8]))
    scale = load_weights(path).arrays["backbone/bn1/scale"][0]
    assert scale == pytest.approx(np.sqrt(1 + 1e-5 / 0.5), rel=1e-7)
    assert scale > 1
    assert load_weights(path, epsilon=1e-5).arrays["backbone/bn1/scale"][0] == 1.0


def command(*arguments: str | os.PathLike) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "ipg_jax.cli.weights", *arguments],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )


def test_the_command_shows_checks_and_converts(tmp_path):
    task = build_task(digits_ipg.get_config())
    abstract = model_arrays(jax.eval_shape(task.init, jax.random.key(0)))
    arrays = {path: np.zeros(x.shape, np.float32) for path, x in abstract.items()}
    arrays = {path: x for path, x in arrays.items() if "/fusion" not in path}
    source, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_weights(source, Weights(arrays, tuple("0123456789")))

    config = "--config=configs/digits_ipg.py"
    strict = command(source, config)
    assert strict.returncode == 2
    assert "error: " in strict.stderr
    assert "missing: backbone/fusion2/w/kernel" in strict.stderr
    assert "Traceback" not in strict.stderr
    result = command(source, config, r"--config.init_missing=.*/fusion\d/.*", f"--out={out}")
    assert result.returncode == 0, result.stderr
    assert "arrays start fresh: backbone/fusion2 (3)" in result.stderr
    assert "7x7x3x64" in result.stdout
    assert json.dumps(load_weights(out).class_names) == json.dumps(tuple("0123456789"))


def test_another_kind_of_file_is_refused_before_anything_is_read(tmp_path):
    result = command(tmp_path / "none.pth", "--out=weights.npz")
    assert result.returncode != 0
    assert "weights are written as .safetensors" in result.stderr
    assert "none.pth" not in result.stderr


def test_metadata_may_be_null(tmp_path):
    path = tmp_path / "a.safetensors"
    header = b'{"__metadata__":null,"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match=r"a\.safetensors: .*of no model"):
        load_weights(path)  # which holds no known model
