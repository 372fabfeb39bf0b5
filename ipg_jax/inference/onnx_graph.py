"""Rewrites of a converted ONNX program: what runtimes do not take, and what they are slow with."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx_ir
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx_ir.passes.common import (
    DeduplicateHashedInitializersPass,
    LiftSubgraphInitializersToMainGraphPass,
    RemoveUnusedNodesPass,
)

Nodes: TypeAlias = Sequence[Any]
Rule: TypeAlias = Callable[[Any], Nodes | None]
"""From a node to those that take its place; None keeps it."""

_BY_ELEMENT = {
    "Add",
    "And",
    "Div",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "Less",
    "LessOrEqual",
    "Max",
    "Min",
    "Mul",
    "Or",
    "Pow",
    "Sub",
    "Where",
}
"""Operations that repeat axes of 1 to the length of those of other operands."""

_LARGE = 1000
"""Values of a constant from which it is worth to look whether they differ."""

_OUTER_AXES = "pooling_outer_axes"


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a program with the same results that onnxruntime takes.

    - Max-pooling of `[b, h, w, c]`, which jax2onnx writes with a window of four axes, becomes that
      of `[b, c, h, w]` with a window of two: onnxruntime pools along three at most.
    - A choice between Booleans becomes logic: onnxruntime has no `Where` for them.
    - `Where(x <= 0, 0, x)` becomes a ReLU, which runtimes compute within a convolution.
    - A large constant whose values are equal along an axis keeps one of them, where it meets arrays
      of the full length element by element.
    - What is not used goes, and of equal constants all but one: a head's kernels are there once for
      each level.
    """
    model = shape_inference.infer_shapes(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), _OUTER_AXES))
    booleans = {
        value.name
        for graph in _graphs(model.graph)
        for value in [*graph.value_info, *graph.input, *graph.output]
        if value.type.tensor_type.elem_type == TensorProto.BOOL
    }
    # Graphs within nodes come first: they are copied when the nodes around them are replaced.
    for graph in reversed([*_graphs(model.graph)]):
        for rule in (_pooling, _logic(booleans), _relu(graph)):
            nodes = [new for node in graph.node for new in rule(node) or [node]]
            del graph.node[:]
            graph.node.extend(nodes)
    _shrink_constants(model.graph)
    passes = onnx_ir.passes.Sequential(
        LiftSubgraphInitializersToMainGraphPass(),
        DeduplicateHashedInitializersPass(),
        RemoveUnusedNodesPass(),
    )
    return onnx_ir.to_proto(passes(onnx_ir.from_proto(model)).model)


def _graphs(graph: Any) -> Iterator[Any]:
    """Yields a graph and those within its nodes, outer ones first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _pooling(node: Any) -> Nodes | None:
    if node.op_type != "MaxPool":
        return None
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    window = attributes["kernel_shape"]
    if len(window) != 4 or (window[0], window[3]) != (1, 1):
        return None
    pads = attributes.get("pads", [0] * 8)
    (given,), (name,) = node.input, node.output  # [1, 1, b, h, w, c]
    return [
        helper.make_node("Squeeze", [given, _OUTER_AXES], [f"{name}_nhwc"]),
        helper.make_node("Transpose", [f"{name}_nhwc"], [f"{name}_nchw"], perm=(0, 3, 1, 2)),
        helper.make_node(
            "MaxPool",
            [f"{name}_nchw"],
            [f"{name}_pooled"],
            kernel_shape=window[1:3],
            strides=attributes["strides"][1:3],
            pads=[*pads[1:3], *pads[5:7]],
        ),
        helper.make_node("Transpose", [f"{name}_pooled"], [f"{name}_back"], perm=(0, 2, 3, 1)),
        helper.make_node("Unsqueeze", [f"{name}_back", _OUTER_AXES], [name]),
    ]


def _logic(booleans: set[str]) -> Rule:
    def rule(node: Any) -> Nodes | None:
        if node.op_type != "Where" or node.output[0] not in booleans:
            return None
        (condition, yes, no), (name,) = node.input, node.output
        return [
            helper.make_node("Not", [condition], [f"{name}_not"]),
            helper.make_node("And", [condition, yes], [f"{name}_yes"]),
            helper.make_node("And", [f"{name}_not", no], [f"{name}_no"]),
            helper.make_node("Or", [f"{name}_yes", f"{name}_no"], [name]),
        ]

    return rule


def _relu(graph: Any) -> Rule:
    tests = {node.output[0]: node for node in graph.node if node.op_type == "LessOrEqual"}
    zeros = {array.name for array in graph.initializer if not numpy_helper.to_array(array).any()}

    def rule(node: Any) -> Nodes | None:
        if node.op_type != "Where" or node.input[0] not in tests:
            return None
        x, limit = tests[node.input[0]].input
        if node.input[2] != x or not {limit, node.input[1]} <= zeros:
            return None
        return [helper.make_node("Relu", [x], node.output)]

    return rule


def _shrink_constants(graph: Any) -> None:
    users = defaultdict(list)
    for each in _graphs(graph):
        for node in each.node:
            for name in node.input:
                users[name].append(node)
        for output in each.output:
            users[output.name].append(output)
    constants = {array.name for each in _graphs(graph) for array in each.initializer}
    shapes = {  # of what is computed: constants may shrink, too
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for each in _graphs(graph)
        for value in [*each.value_info, *each.input]
        if value.name not in constants
    }

    def spanned(node: Any, name: str, shape: Sequence[int], axis: int) -> bool:
        """Whether a node's result is as long along an axis without this operand."""
        others = [shapes.get(other, []) for other in getattr(node, "input", ()) if other != name]
        return getattr(node, "op_type", None) in _BY_ELEMENT and any(
            len(other) == len(shape) and other[axis] == shape[axis] for other in others
        )

    for each in _graphs(graph):
        for array in each.initializer:
            shape = array.dims
            if math.prod(shape) < _LARGE:
                continue
            values = numpy_helper.to_array(array)
            for axis in range(len(shape)):
                first = values.take([0], axis)
                if (values == first).all() and all(
                    spanned(node, array.name, shape, axis) for node in users[array.name]
                ):
                    values = first
            if values.size < math.prod(shape):
                array.CopyFrom(numpy_helper.from_array(values, array.name))
                # What was noted of its shape is no longer true.
                noted = [value for value in each.value_info if value.name != array.name]
                del each.value_info[:]
                each.value_info.extend(noted)
