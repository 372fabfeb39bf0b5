"""Names and shapes of torch models, and what they are called here.

Known are ResNets as torchvision and timm name them, those of Hugging Face's transformers,
torchvision's ConvNeXts, and its RetinaNet and Faster R-CNN on a ResNet-FPN, both versions, with
today's module names and those of the first published files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ipg_jax.types import Array
from ipg_jax.weights.classes import COCO_CLASSES
from ipg_jax.weights.merge import Weights

Renaming = tuple[str, Callable[[re.Match[str]], str]]
"""A regular expression of whole names of torch modules, and the path that a match becomes."""

LEAVES = {
    "bias": "bias",
    "running_mean": "mean",
    "running_var": "var",
    "layer_scale": "layer_scale",
}
POOLED = 7  # side of the pooled features that the first layer of a box head reads
EPSILON = 1e-5  # of all batch norms here and of torch's


def convert(
    state: Mapping[str, Array], *, class_names: Sequence[str] = (), epsilon: float = EPSILON
) -> Weights:
    """Returns the arrays of a torch model under their names here.

    Convolution kernels become `[height, width, in, out]`, matrices `[in, out]`. Heads keep the rows
    of their classes: of torchvision's 91 those that COCO has, else all but row 0, the background,
    which two-stage heads get at their end.

    Args:
      state: a `state_dict`.
      class_names: of a detector's classes without the background; COCO's are known.
      epsilon: of the batch norms that the model was trained with. It is 1e-5 here; another one
        goes into their scales.

    Raises:
      ValueError: the names are those of no known model, or do not fit `class_names`.
    """
    if state and all(name.startswith("module.") for name in state):  # torch's data parallelism
        state = {name.removeprefix("module."): array for name, array in state.items()}
    renamings, absent = _renamings(state)
    arrays: dict[str, Array] = {}
    sources: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, array in state.items():
        module, _, leaf = name.rpartition(".")
        if leaf == "num_batches_tracked":
            left_out[name] = "counter of a batch norm"
        elif re.fullmatch(r"fc|classifier\.\d", module):
            left_out[name] = "classifier of whole images"
        else:
            path = _path(renamings, module, leaf, array) or name
            if path in arrays:
                raise ValueError(f"{sources[path]} and {name} are both {path} here")
            if path.endswith("/kernel") and array.ndim not in (2, 4):
                raise ValueError(f"{name} has the shape {array.shape}; kernels have 2 or 4 axes")
            arrays[path], sources[path] = _transposed(array, path), name

    if epsilon != EPSILON:
        for path in [path for path in arrays if path.endswith("/var")]:
            scale = path.removesuffix("var") + "scale"
            if scale in arrays:
                arrays[scale] = arrays[scale] * np.sqrt(
                    (arrays[path] + EPSILON) / (arrays[path] + epsilon)
                )
    if "box_head/fc0/kernel" in arrays:
        # torch flattens [channels, 7, 7], here it is [7, 7, channels].
        kernel = arrays["box_head/fc0/kernel"]
        if kernel.ndim != 2 or kernel.shape[0] % POOLED**2:
            raise ValueError(
                f"{sources['box_head/fc0/kernel']} reads {kernel.shape[0]} values, which is no "
                f"multiple of the {POOLED}x{POOLED} positions of pooled features"
            )
        kernel = kernel.reshape(-1, POOLED, POOLED, kernel.shape[-1]).transpose(1, 2, 0, 3)
        arrays["box_head/fc0/kernel"] = kernel.reshape(-1, kernel.shape[-1])
    class_names = _convert_classes(arrays, sources, left_out, tuple(class_names))
    return Weights(arrays, class_names, sources, left_out, absent)


def _renamings(state: Mapping[str, Any]) -> tuple[list[Renaming], str]:
    """Returns the renamings for a model, known by its names, and what it never has."""
    prefixes = {name.split(".")[0] for name in state}
    if "backbone.body.conv1.weight" in state and prefixes >= {"rpn", "roi_heads"}:
        return [*_resnet("backbone.body."), *_fpn(state), *_faster_rcnn(state)], ""
    if "backbone.body.conv1.weight" in state and "head" in prefixes:
        return [*_resnet("backbone.body."), *_fpn(state), *RETINANET], ""
    only_backbone = r"(?!backbone/(conv1|bn1|norm1|layer[1-4])/).*"
    if "conv1.weight" in state and "layer1.0.conv1.weight" in state:
        return _resnet(""), only_backbone
    if "features.1.0.layer_scale" in state:
        return CONVNEXT, only_backbone
    for prefix in ("resnet.", ""):
        if f"{prefix}embedder.embedder.convolution.weight" in state:
            return _transformers_resnet(prefix), only_backbone
    raise ValueError(
        "these are the weights of no model that is known here: ResNets of torchvision, timm and "
        "transformers, ConvNeXt, RetinaNet and Faster R-CNN of torchvision. The first names are "
        f"{', '.join(list(state)[:8]) or 'none'}"
    )


def _path(renamings: Sequence[Renaming], module: str, leaf: str, array: Array) -> str | None:
    """Returns the path of a module's array, or None if no renaming knows the module."""
    kind = LEAVES.get(leaf)
    if leaf == "weight":
        kind = "scale" if array.ndim == 1 else "kernel"
    for pattern, path in renamings:
        match = re.fullmatch(pattern, module)
        if match and kind:
            return f"{path(match)}/{kind}"
    return None


def _transposed(array: Array, path: str) -> Array:
    if path.endswith("/layer_scale"):
        return array.reshape(-1)
    if not path.endswith("/kernel"):
        return array
    return np.ascontiguousarray(array.T if array.ndim == 2 else np.transpose(array, (2, 3, 1, 0)))


def _resnet(prefix: str) -> list[Renaming]:
    """Torchvision's ResNet, which is also timm's."""
    block = re.escape(prefix) + r"layer(\d)\.(\d+)\."
    return [
        (re.escape(prefix) + r"(conv1|bn1)", lambda m: f"backbone/{m[1]}"),
        (block + r"((?:conv|bn)\d)", lambda m: f"backbone/layer{m[1]}/block{m[2]}/{m[3]}"),
        (
            block + r"downsample\.([01])",
            lambda m: (
                f"backbone/layer{m[1]}/block{m[2]}/downsample_{'bn' if int(m[3]) else 'conv'}"
            ),
        ),
    ]


def _transformers_resnet(prefix: str) -> list[Renaming]:
    kinds = {"convolution": "conv", "normalization": "bn"}
    stem = re.escape(prefix) + r"embedder\.embedder\."
    block = re.escape(prefix) + r"encoder\.stages\.(\d)\.layers\.(\d+)\."
    kind = r"(convolution|normalization)"

    def path(m: re.Match[str], layer: str) -> str:
        return f"backbone/layer{int(m[1]) + 1}/block{m[2]}/{layer}"

    return [
        (stem + kind, lambda m: f"backbone/{kinds[m[1]]}1"),
        (block + rf"layer\.(\d)\.{kind}", lambda m: path(m, f"{kinds[m[4]]}{int(m[3]) + 1}")),
        (block + rf"shortcut\.{kind}", lambda m: path(m, f"downsample_{kinds[m[3]]}")),
    ]


_CONVNEXT_LAYERS = {"0": "conv", "2": "norm", "3": "fc1", "5": "fc2"}  # of a block
CONVNEXT: list[Renaming] = [  # modules 1, 3, 5 and 7 are the stages, 2, 4 and 6 their downsamplings
    (r"features\.0\.([01])", lambda m: f"backbone/{('conv1', 'norm1')[int(m[1])]}"),
    (
        r"features\.([246])\.([01])",
        lambda m: f"backbone/layer{int(m[1]) // 2 + 1}/downsample_{('norm', 'conv')[int(m[2])]}",
    ),
    (
        r"features\.([1357])\.(\d+)\.block\.([0235])",
        lambda m: f"backbone/layer{int(m[1]) // 2 + 1}/block{m[2]}/{_CONVNEXT_LAYERS[m[3]]}",
    ),
    # whose only array of its own is `layer_scale`
    (
        r"features\.([1357])\.(\d+)",
        lambda m: f"backbone/layer{int(m[1]) // 2 + 1}/block{m[2]}",
    ),
]


def _fpn(state: Mapping[str, Any]) -> list[Renaming]:
    """Torchvision's FPN, whose last block always reads stage 4 (level 5)."""
    blocks = [re.match(r"backbone\.fpn\.inner_blocks\.(\d)\.", name) for name in state]
    first = 5 - max((int(m[1]) for m in blocks if m), default=0)
    kinds = {"inner": "lateral", "layer": "output"}

    def path(m: re.Match[str], suffix: str = "") -> str:
        return f"fpn/{kinds[m[1]]}{first + int(m[2])}{suffix}"

    block = r"backbone\.fpn\.(inner|layer)_blocks\.(\d)"
    return [
        (block + r"(?:\.0)?", path),
        (block + r"\.1", lambda m: path(m, "_bn")),
        (r"backbone\.fpn\.extra_blocks\.p(\d)", lambda m: f"fpn/extra{m[1]}"),
    ]


_TOWERS = {"classification": "class_tower", "regression": "box_tower"}
_TOWER = r"head\.(classification|regression)_head\.conv\.(\d)"
RETINANET: list[Renaming] = [
    (_TOWER + r"\.0", lambda m: f"head/{_TOWERS[m[1]]}/conv{m[2]}"),
    (_TOWER + r"\.1", lambda m: f"head/{_TOWERS[m[1]]}/norm{m[2]}"),
    # The older names count the ReLUs between the convolutions too.
    (_TOWER, lambda m: f"head/{_TOWERS[m[1]]}/conv{int(m[2]) // 2}"),
    (r"head\.classification_head\.cls_logits", lambda m: "head/class_logits"),
    (r"head\.regression_head\.bbox_reg", lambda m: "head/box_deltas"),
]


def _faster_rcnn(state: Mapping[str, Any]) -> list[Renaming]:
    # With convolutions, the box head is a sequence: `n` of them, a flattening, and matrices with
    # ReLUs between.
    convs = sum(
        re.fullmatch(r"roi_heads\.box_head\.\d+\.0\.weight", name) is not None for name in state
    )
    return [
        (r"rpn\.head\.conv", lambda m: "rpn/conv0"),
        (r"rpn\.head\.conv\.(\d)\.0", lambda m: f"rpn/conv{m[1]}"),
        (r"rpn\.head\.cls_logits", lambda m: "rpn/objectness"),
        (r"rpn\.head\.bbox_pred", lambda m: "rpn/deltas"),
        (r"roi_heads\.box_head\.fc(\d)", lambda m: f"box_head/fc{int(m[1]) - 6}"),
        (r"roi_heads\.box_head\.(\d)\.0", lambda m: f"box_head/conv{m[1]}"),
        (r"roi_heads\.box_head\.(\d)\.1", lambda m: f"box_head/bn{m[1]}"),
        (r"roi_heads\.box_head\.(\d)", lambda m: f"box_head/fc{(int(m[1]) - convs) // 2}"),
        (r"roi_heads\.box_predictor\.cls_score", lambda m: "box_head/class_logits"),
        (r"roi_heads\.box_predictor\.bbox_pred", lambda m: "box_head/box_deltas"),
    ]


def _convert_classes(
    arrays: dict[str, Array],
    sources: Mapping[str, str],
    left_out: dict[str, str],
    class_names: tuple[str, ...],
) -> tuple[str, ...]:
    """Puts the class rows of `arrays` into this package's order; returns the classes' names.

    Raises:
      ValueError: `class_names` are not as many as the head's classes, or the head's arrays do not
        fit each other.
    """
    if "head/class_logits/bias" in arrays:
        deltas = _outputs(arrays, "head/box_deltas")
        anchors = max(1, deltas // 4)
        rows = _outputs(arrays, "head/class_logits") // anchors
        widths = {"head/class_logits": 1}
        wanted = {"head/box_deltas": anchors * 4, "head/class_logits": anchors * rows}
    elif "box_head/class_logits/bias" in arrays:
        rows = _outputs(arrays, "box_head/class_logits")
        widths = {"box_head/class_logits": 1, "box_head/box_deltas": 4}
        wanted = {layer: rows * width for layer, width in widths.items()}
    else:
        return ()
    for layer, outputs in wanted.items():
        if _outputs(arrays, layer) != outputs or not rows:
            raise ValueError(
                f"{sources[f'{layer}/bias']} has {_outputs(arrays, layer)} values, which does not "
                "fit the head's other layers"
            )
    kept = list(range(1, rows))
    if not class_names and rows == len(COCO_CLASSES):
        kept = [row for row, name in enumerate(COCO_CLASSES) if name]
        class_names = tuple(COCO_CLASSES[row] for row in kept)
    if class_names and len(class_names) != len(kept):
        raise ValueError(
            f"{len(class_names)} class names for a head of {len(kept)} classes besides the "
            "background"
        )
    dropped = ", ".join(str(row) for row in range(rows) if row not in kept)
    for layer, width in widths.items():
        background = [0] if layer == "box_head/class_logits" else []
        for path in (f"{layer}/kernel", f"{layer}/bias"):
            array = arrays[path].reshape(*arrays[path].shape[:-1], -1, rows, width)
            array = array[..., kept + background, :]
            arrays[path] = array.reshape(*array.shape[:-3], -1)
            if not background:
                left_out[f"{sources[path]} [{dropped}]"] = "classes that are none"
    return class_names


def _outputs(arrays: Mapping[str, Array], layer: str) -> int:
    """Returns how many outputs a layer has.

    Raises:
      ValueError: its kernel or bias is missing, or they do not fit each other.
    """
    shapes = {}
    for path in (f"{layer}/kernel", f"{layer}/bias"):
        if path not in arrays:
            raise ValueError(f"there is a head, but nothing for its {path}")
        shapes[path] = arrays[path].shape
    kernel, bias = shapes.values()
    if len(kernel) < 2 or bias != kernel[-1:]:
        raise ValueError(f"the shapes of {layer} do not fit each other: {kernel} and {bias}")
    return bias[0]
