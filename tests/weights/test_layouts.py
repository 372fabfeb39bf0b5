"""Names and shapes of torch models. That nothing of a whole model is missing or in a wrong place is
tested with their outputs, in `tests/parity`."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.layers import FrozenBatchNorm
from ipg_jax.models import BACKBONES, IPGNet
from ipg_jax.weights import COCO_CLASSES, convert

SHAPES = json.loads(
    str(np.load(pathlib.Path(__file__).parents[1] / "golden" / "detectors.npz")["shapes"])
)


def made_state(model: str) -> dict[str, np.ndarray]:
    """A state_dict with torchvision's names; all sizes but those of the heads' classes are cut."""
    rng = np.random.default_rng(0)
    state = {}
    for name, shape in SHAPES[model].items():
        if re.search("cls_|bbox_", name):
            shape = [shape[0], *(min(size, 3) for size in shape[1:])]
        elif re.search(r"box_head\.(fc6|5)\.weight", name):
            shape = [2, 3 * 7 * 7]
        else:
            shape = [min(size, 3) for size in shape]
        state[name] = rng.random(shape, np.float32)
    return state


def assert_same(a, b):
    assert a.arrays.keys() == b.arrays.keys()
    for path in a.arrays:
        np.testing.assert_array_equal(a.arrays[path], b.arrays[path])
    assert a.class_names == b.class_names


def test_resnets_by_hand():
    state = {
        "conv1.weight": np.arange(2 * 3 * 7 * 7.0).reshape(2, 3, 7, 7),
        "bn1.running_var": np.ones(2),
        "bn1.num_batches_tracked": np.int64(7),
        "layer1.0.conv1.weight": np.ones((2, 2, 1, 1)),
        "layer1.0.bn2.weight": np.ones(2),
        "layer3.11.downsample.0.weight": np.ones((4, 2, 1, 1)),
        "layer3.11.downsample.1.bias": np.ones(4),
        "layer4.0.se.conv.weight": np.ones((4, 2, 1, 1)),
        "fc.weight": np.ones((10, 2)),
    }
    converted = convert(state)
    assert set(converted.arrays) == {
        "backbone/conv1/kernel",
        "backbone/bn1/var",
        "backbone/layer1/block0/conv1/kernel",
        "backbone/layer1/block0/bn2/scale",
        "backbone/layer3/block11/downsample_conv/kernel",
        "backbone/layer3/block11/downsample_bn/bias",
        "layer4.0.se.conv.weight",  # not known: unexpected when it is merged
    }
    kernel = converted.arrays["backbone/conv1/kernel"]
    assert kernel[5, 6, 2, 1] == state["conv1.weight"][1, 2, 5, 6]
    assert converted.sources["backbone/bn1/var"] == "bn1.running_var"
    assert set(converted.left_out) == {"fc.weight", "bn1.num_batches_tracked"}
    assert re.fullmatch(converted.absent, "fpn/lateral3/kernel")
    assert re.fullmatch(converted.absent, "backbone/layer5/block0/conv1/kernel")
    assert not re.fullmatch(converted.absent, "backbone/layer4/block0/conv1/kernel")
    assert_same(convert({f"module.{name}": x for name, x in state.items()}), converted)


@pytest.mark.parametrize("prefix", ["resnet.", ""])
def test_transformers_resnet_is_torchvisions_by_other_names(prefix):
    kinds = {"conv": "convolution", "bn": "normalization"}

    def renamed(name: str) -> str:
        if name.startswith("fc."):
            return name.replace("fc", "classifier.1")
        if m := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
            return f"{prefix}embedder.embedder.{kinds[m[1]]}.{m[2]}"
        m = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", name)
        start = f"{prefix}encoder.stages.{int(m[1]) - 1}.layers.{m[2]}"
        rest = m[3].replace("downsample.0", "shortcut.convolution")
        rest = rest.replace("downsample.1", "shortcut.normalization")
        for short, long in kinds.items():
            rest = re.sub(rf"^{short}(\d)", lambda n: f"layer.{int(n[1]) - 1}.{long}", rest)  # noqa: B023
        return f"{start}.{rest}"

    state = made_state("resnet50")
    converted = convert({renamed(name): x for name, x in state.items()})
    assert_same(converted, convert(state))
    assert len(converted.arrays) == 5 * 53  # 53 convolutions, each with a batch norm
    assert set(converted.left_out) >= {"classifier.1.weight", "classifier.1.bias"}


@pytest.mark.parametrize("model", ["convnext_tiny", "convnext_small"])
def test_every_array_of_a_convnext_has_its_place(model: str):
    state = {name: np.zeros(shape, np.float32) for name, shape in SHAPES[model].items()}
    converted = convert(state)
    net = IPGNet(BACKBONES[model](), fusion_stages=())
    image = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), (image,), train=False))
    want = {
        "backbone/" + jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
        for path, x in jax.tree_util.tree_leaves_with_path(shapes["params"])
    }
    assert {path: x.shape for path, x in converted.arrays.items()} == want
    assert converted.left_out == dict.fromkeys(
        (f"classifier.{i}.{leaf}" for i in (0, 2) for leaf in ("weight", "bias")),
        "classifier of whole images",
    )
    assert re.fullmatch(converted.absent, "backbone/ipg2/conv1/kernel")
    assert not re.fullmatch(converted.absent, "backbone/norm1/scale")


OLDER = {  # names of the first files that torchvision published, by those of today
    "retinanet_resnet50_fpn": [
        (r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2."),
        (r"head\.conv\.(\d)\.0\.", lambda m: f"head.conv.{2 * int(m[1])}."),
    ],
    "fasterrcnn_resnet50_fpn": [
        (r"(inner|layer)_blocks\.(\d)\.0\.", r"\1_blocks.\2."),
        (r"rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
    ],
}


@pytest.mark.parametrize("model", OLDER)
def test_older_names_mean_the_same(model: str):
    state = made_state(model)
    older = {}
    for name, array in state.items():
        for pattern, replacement in OLDER[model]:
            name = re.sub(pattern, replacement, name)
        older[name] = array
    assert len(older.keys() - state.keys()) >= 10
    assert_same(convert(older), convert(state))


@pytest.mark.parametrize("version", ["", "_v2"])
def test_faster_rcnn_has_the_agreed_names(version: str):
    arrays = convert(made_state(f"fasterrcnn_resnet50_fpn{version}")).arrays
    heads = {path for path in arrays if not path.startswith("backbone/")}
    with_bias = ["rpn/conv0", "rpn/objectness", "rpn/deltas", "box_head/fc0"]
    with_bias += ["box_head/class_logits", "box_head/box_deltas"]
    laterals = [f"fpn/{kind}{level}" for kind in ("lateral", "output") for level in (2, 3, 4, 5)]
    want = set()
    if version:
        with_bias += ["rpn/conv1"]
        convs = [f"box_head/conv{i}" for i in range(4)]
        norms = [f"{path}_bn" for path in laterals] + [f"box_head/bn{i}" for i in range(4)]
        want |= {f"{path}/kernel" for path in (*laterals, *convs)}
        want |= {f"{path}/{x}" for path in norms for x in ("scale", "bias", "mean", "var")}
    else:
        with_bias += [*laterals, "box_head/fc1"]
    want |= {f"{path}/{x}" for path in with_bias for x in ("kernel", "bias")}
    assert heads == want


def test_the_first_matrix_of_a_box_head_reads_pooled_features_in_this_order():
    state = made_state("fasterrcnn_resnet50_fpn_v2")
    matrix = state["roi_heads.box_head.5.weight"]
    pooled = np.random.default_rng(1).random((7, 7, 3), np.float32)
    want = matrix @ pooled.transpose(2, 0, 1).reshape(-1)  # torch flattens [C, H, W]
    have = pooled.reshape(-1) @ convert(state).arrays["box_head/fc0/kernel"]
    np.testing.assert_allclose(have, want, rtol=1e-5)


def test_cocos_rows_are_taken_by_their_names():
    names = tuple(name for name in COCO_CLASSES if name)
    cat, label = 17, names.index("cat")

    state = made_state("retinanet_resnet50_fpn")
    dense = convert(state)
    assert dense.class_names == names
    bias = state["head.classification_head.cls_logits.bias"].reshape(9, 91)
    have = dense.arrays["head/class_logits/bias"].reshape(9, 80)
    np.testing.assert_array_equal(have[:, label], bias[:, cat])

    state = made_state("fasterrcnn_resnet50_fpn")
    two_stage = convert(state)
    assert two_stage.class_names == names
    scores = two_stage.arrays["box_head/class_logits/kernel"]
    want = state["roi_heads.box_predictor.cls_score.weight"]
    assert scores.shape == (3, 81)
    np.testing.assert_array_equal(scores[:, label], want[cat])
    np.testing.assert_array_equal(scores[:, 80], want[0])  # the background comes last here
    deltas = two_stage.arrays["box_head/box_deltas/kernel"]
    want = state["roi_heads.box_predictor.bbox_pred.weight"]
    assert deltas.shape == (3, 320)
    np.testing.assert_array_equal(
        deltas[:, 4 * label : 4 * label + 4], want[4 * cat : 4 * cat + 4].T
    )


def test_a_head_of_other_classes_loses_its_background_only():
    state = made_state("fasterrcnn_resnet50_fpn")
    for layer, width in (("cls_score", 1), ("bbox_pred", 4)):
        for leaf in ("weight", "bias"):
            name = f"roi_heads.box_predictor.{layer}.{leaf}"
            state[name] = state[name][: 3 * width]
    converted = convert(state)
    assert converted.class_names == ()
    want = state["roi_heads.box_predictor.cls_score.bias"][[1, 2, 0]]
    np.testing.assert_array_equal(converted.arrays["box_head/class_logits/bias"], want)
    assert converted.arrays["box_head/box_deltas/bias"].shape == (8,)
    assert convert(state, class_names=["a", "b"]).class_names == ("a", "b")
    with pytest.raises(ValueError, match="3 class names for a head of 2 classes"):
        convert(state, class_names=["a", "b", "c"])


def test_another_epsilon_goes_into_the_scales():
    vectors = {
        "weight": np.float32([2, 3]),
        "bias": np.float32([1, -1]),
        "running_mean": np.float32([0.5, 1]),
        "running_var": np.float32([1e-6, 2]),
    }
    state = {f"bn1.{leaf}": x for leaf, x in vectors.items()}
    state |= {"conv1.weight": np.ones((2, 3, 7, 7)), "layer1.0.conv1.weight": np.ones((2, 2, 1, 1))}
    arrays = convert(state, epsilon=0.0).arrays
    x = np.random.default_rng(0).random((1, 4, 4, 2), np.float32)
    stats = {
        name: jnp.asarray(arrays[f"backbone/bn1/{name}"])
        for name in ("scale", "bias", "mean", "var")
    }
    have = FrozenBatchNorm().apply({"batch_stats": stats}, x)
    deviation = np.sqrt(vectors["running_var"])
    want = (x - vectors["running_mean"]) / deviation * vectors["weight"] + vectors["bias"]
    np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("state", [{}, {"encoder.weight": np.ones(2), "x.bias": np.ones(2)}])
def test_other_models_are_refused(state):
    with pytest.raises(ValueError, match=f"no model .* {', '.join(state) or 'none'}"):
        convert(state)
