"""The rewrites of converted programs: the same results, in onnxruntime."""

import numpy as np
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from ipg_jax.inference.onnx_graph import simplify


def parsed(text: str, **constants: np.ndarray) -> onnx.ModelProto:
    """Returns a program with constants, whose type and shape the text does not say."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 18]> {text}')
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in constants.items()
    )
    return model


def results(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return session.run(None, inputs)


def operations(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


POOL = """pool (float[1,4,4,2] x) => (float[1,2,2,2] y) {{
    six = Unsqueeze(x, outer)
    pooled = MaxPool<kernel_shape = [1, {size}, {size}, 1], strides = [1, 2, 2, 1] {pads}>(six)
    y = Squeeze(pooled, outer)
}}"""


@pytest.mark.parametrize(
    ("size", "pads", "largest", "smallest"),
    [
        (2, "", [[5, 7], [13, 15]], [[0, 2], [8, 10]]),
        (3, ", pads = [0, 1, 1, 0, 0, 1, 1, 0]", [[5, 7], [13, 15]], [[0, 1], [4, 5]]),
        (3, ", pads = [0, 0, 0, 0, 0, 1, 1, 0]", [[10, 11], [14, 15]], [[0, 2], [8, 10]]),
    ],
)
def test_channels_that_are_last_are_pooled(size, pads, largest, smallest):
    model = parsed(POOL.format(size=size, pads=pads), outer=np.array([0, 1]))
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    x = np.concatenate([x, -x], axis=-1)
    with pytest.raises(Exception, match="Unsupported pooling size"):
        results(model, x=x)
    (y,) = results(simplify(model), x=x)
    np.testing.assert_array_equal(y[0, :, :, 0], largest)
    np.testing.assert_array_equal(-y[0, :, :, 1], smallest)


WHERE = """choose (bool[3] c, bool[3] a, bool[3] b, bool inner) => (bool[3] y, bool[3] z) {
    y = Where(c, a, b)
    z = If(inner) <
        then_branch = yes () => (bool[3] chosen) { chosen = Where(c, b, a) },
        else_branch = no () => (bool[3] kept) { kept = Identity(a) }
    >
}"""


def test_booleans_are_chosen_by_logic_in_graphs_within_too():
    model = parsed(WHERE)
    inputs = {
        "c": np.array([True, False, False]),
        "a": np.array([True, True, False]),
        "b": np.array([False, False, True]),
        "inner": np.array(True),
    }
    with pytest.raises(Exception, match="Could not find an implementation for Where"):
        results(model, **inputs)
    y, z = results(simplify(model), **inputs)
    np.testing.assert_array_equal(y, [True, False, True])
    np.testing.assert_array_equal(z, [False, True, False])


RELU = """relu (float[4] x, float[4] other) => (float[4] y) {{
    low = LessOrEqual({tested}, limit)
    y = Where(low, replaced, x)
}}"""


@pytest.mark.parametrize(
    ("tested", "limit", "replaced", "is_relu"),
    [("x", 0, 0, True), ("x", 1, 0, False), ("x", 0, 1, False), ("other", 0, 0, False)],
)
def test_only_a_relu_becomes_one(tested, limit, replaced, is_relu):
    model = parsed(
        RELU.format(tested=tested), limit=np.float32(limit), replaced=np.float32(replaced)
    )
    simple = simplify(model)
    assert operations(simple) == (["Relu"] if is_relu else ["LessOrEqual", "Where"])
    inputs = {"x": np.float32([-1, 0, 0.5, np.nan]), "other": np.float32([1, -1, 1, -1])}
    np.testing.assert_array_equal(results(simple, **inputs), results(model, **inputs))


SUM = """sum (float[2,600] x, float[2,1] narrow)
    => (float[2,600] y, float[2,600] z, float[2,600] k) {
    y = Add(x, uniform)
    z = Mul(narrow, wide)
    both = Add(by_row, wide)
    k = Sub(both, by_row)
}"""


def test_constants_shrink_only_where_the_result_keeps_its_shape():
    rows = np.broadcast_to(np.float32([[1], [2]]), (2, 600))
    model = parsed(SUM, uniform=np.full((2, 600), 3, np.float32), wide=rows, by_row=rows + 1)
    model.graph.value_info.extend(  # as jax2onnx notes the shapes of constants, too
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2, 600))
        for name in ("uniform", "wide", "by_row")
    )
    simple = simplify(model)
    shapes = {array.name: tuple(array.dims) for array in simple.graph.initializer}
    assert shapes["uniform"] == (1, 1)
    assert shapes["wide"] == shapes["by_row"] == (2, 600)
    onnx.checker.check_model(simple, full_check=True)
    inputs = {"x": np.ones((2, 600), np.float32), "narrow": np.float32([[4], [5]])}
    y, z, k = results(simple, **inputs)
    np.testing.assert_array_equal(y, np.full((2, 600), 4))
    np.testing.assert_array_equal(z, np.broadcast_to([[4], [10]], (2, 600)))
    np.testing.assert_array_equal(k, rows)


def test_a_constant_that_is_a_result_stays():
    model = parsed(
        "both (float[600,2] x) => (float[600,2] y, float[600,2] zeros) { y = Add(x, zeros) }",
        zeros=np.zeros((600, 2), np.float32),
    )
    y, zeros = results(simplify(model), x=np.ones((600, 2), np.float32))
    assert y.shape == zeros.shape == (600, 2)


def test_equal_constants_are_kept_once_and_others_go():
    kernel = np.arange(4096, dtype=np.float32).reshape(64, 64) / 4096
    model = parsed(
        """levels (float[64,64] x) => (float[64,64] y) {
            first = MatMul(x, one)
            y = MatMul(first, same)
            dead = Neg(x)
        }""",
        one=kernel,
        same=kernel.copy(),
        unused=kernel + 1,
    )
    simple = simplify(model)
    assert len(simple.graph.initializer) == 1
    assert operations(simple) == ["MatMul", "MatMul"]
    (y,) = results(simple, x=np.eye(64, dtype=np.float32))
    np.testing.assert_allclose(y, kernel @ kernel, rtol=1e-5)
