"""Damaged files of weights: what a file says, or an error that names it."""

import io
import json
import random
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from fake_torch import FakeTensor
from mutators import limited_memory, mutate_bytes, mutate_tree, outcome

from ipg_jax.weights import Weights, load_weights, save_weights

RESNET = {
    "conv1.weight": np.ones((2, 3, 7, 7), np.float32),
    "bn1.weight": np.ones(2, np.float32),
    "bn1.running_var": np.full(2, 0.5, np.float32),
    "bn1.num_batches_tracked": np.int64([3]),
    "layer1.0.conv1.weight": np.ones((2, 2, 1, 1), np.float16),
}
RETINANET = {
    **{f"backbone.body.{name}": array for name, array in RESNET.items()},
    "backbone.fpn.inner_blocks.0.weight": np.ones((4, 2, 1, 1), np.float32),
    "head.classification_head.cls_logits.weight": np.ones((2 * 91, 4, 3, 3), np.float32),
    "head.classification_head.cls_logits.bias": np.ones(2 * 91, np.float32),
    "head.regression_head.bbox_reg.weight": np.ones((8, 4, 3, 3), np.float32),
    "head.regression_head.bbox_reg.bias": np.ones(8, np.float32),
}
FASTER_RCNN = {
    **{f"backbone.body.{name}": array for name, array in RESNET.items()},
    "rpn.head.conv.weight": np.ones((4, 4, 3, 3), np.float32),
    "roi_heads.box_head.fc6.weight": np.ones((2, 2 * 49), np.float32),
    "roi_heads.box_predictor.cls_score.weight": np.ones((4, 2), np.float32),
    "roi_heads.box_predictor.cls_score.bias": np.ones(4, np.float32),
    "roi_heads.box_predictor.bbox_pred.weight": np.ones((16, 2), np.float32),
    "roi_heads.box_predictor.bbox_pred.bias": np.ones(16, np.float32),
}


@pytest.fixture(autouse=True)
def memory():
    """No damage makes a reader take much of it."""
    with limited_memory():
        yield


def assert_sound(weights: Weights | None) -> bool:
    """Checks what was read, if it was read; returns whether it was."""
    if weights is None:
        return False
    for array in weights.arrays.values():
        assert array.dtype in (np.float32, np.int64)
    assert all(isinstance(name, str) for name in weights.class_names)
    return True


@pytest.mark.parametrize("kind", ["ours", "resnet", "retinanet", "faster_rcnn"])
def test_safetensors(tmp_path, kind):
    rng = random.Random(f"weights {kind}")
    path = tmp_path / "weights.safetensors"
    if kind == "ours":
        save_weights(path, Weights({"a/kernel": np.ones((2, 3), np.float32)}, ("cat", "dog")))
    else:
        state = {"resnet": RESNET, "retinanet": RETINANET, "faster_rcnn": FASTER_RCNN}[kind]
        path.write_bytes(safetensors.numpy.save(state))
    written = path.read_bytes()
    assert assert_sound(load_weights(path))
    size = int.from_bytes(written[:8], "little")
    header, values = written[8 : 8 + size], written[8 + size :]
    for _ in range(75):
        if rng.random() < 0.6:
            changed = header
            for _ in range(rng.choice((1, 1, 2))):
                changed = json.dumps(mutate_tree(rng, json.loads(changed)).tree).encode()
            damaged = len(changed).to_bytes(8, "little") + changed + values
        else:  # mostly of the header, which says what the rest is
            damaged = written[:8] + mutate_bytes(rng, header) + values
            damaged = damaged if rng.random() < 0.8 else mutate_bytes(rng, written)
        path.write_bytes(damaged)
        assert_sound(outcome(lambda: load_weights(path), str(path)))


def test_names_and_shapes_that_do_not_fit(tmp_path):
    """Sound files whose arrays are others than those of a model."""
    rng = random.Random("weights shapes")
    path = tmp_path / "weights.safetensors"
    for number in range(75):
        state = dict(RETINANET if number % 2 else FASTER_RCNN)
        for _ in range(rng.choice((1, 2))):
            name = rng.choice(sorted(state))
            array = state.pop(name)
            match rng.randrange(4):
                case 0:
                    pass
                case 1:
                    state[name] = array.reshape(-1)
                case 2:
                    state[name] = array[:-1] if array.ndim else array
                case 3:
                    state[name] = array[None]
        path.write_bytes(safetensors.numpy.save(state))
        assert_sound(outcome(lambda: load_weights(path), str(path)))


def load(file: io.BytesIO, **_: object) -> dict[str, FakeTensor]:
    """What torch does with its zip files, with NumPy's format: checksums are not looked at."""
    with zipfile.ZipFile(file) as archive:
        return {
            record.filename: FakeTensor(np.load(io.BytesIO(archive.read(record))))
            for record in archive.infolist()
        }


def test_zip_files_of_torch(tmp_path, monkeypatch):
    torch = types.SimpleNamespace(load=load, is_tensor=lambda x: isinstance(x, FakeTensor))
    monkeypatch.setitem(sys.modules, "torch", torch)
    rng = random.Random("weights zip")
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in RESNET.items():
            content = io.BytesIO()
            np.save(content, array)
            archive.writestr(name, content.getvalue())
    written, want = path.read_bytes(), load_weights(path)
    refused = 0
    for _ in range(100):
        path.write_bytes(mutate_bytes(rng, written))
        weights = outcome(lambda: load_weights(path), str(path))
        refused += weights is None
        if weights is not None:
            assert weights.arrays.keys() == want.arrays.keys()
            for name, array in want.arrays.items():
                np.testing.assert_array_equal(weights.arrays[name], array)
    assert refused > 50
