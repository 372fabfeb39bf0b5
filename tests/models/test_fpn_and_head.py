import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipg_jax.models import FPN, BoxHead, IPGNet, ResNet, RetinaNet, RetinaNetHead, RPNHead
from ipg_jax.models.necks.fpn import upsample_add


@functools.partial(jax.jit, static_argnums=1)
def upsample(x, size: tuple[int, int]):
    lateral = jnp.zeros((x.shape[0], *size, x.shape[-1]), x.dtype)
    return upsample_add(lateral, x)


@settings(max_examples=12)  # each is compiled
@given(st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans())
def test_upsampling_equals_torchs_nearest(height, width, odd_h, odd_w):
    target = (2 * height - odd_h, 2 * width - odd_w)
    x = np.arange(height * width, dtype=np.float32).reshape(1, height, width, 1)
    rows = [i * height // target[0] for i in range(target[0])]  # torch's floor(i * in / out)
    columns = [i * width // target[1] for i in range(target[1])]
    np.testing.assert_array_equal(upsample(x, target), x[:, rows][:, :, columns])


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (2, 6), (4, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.bfloat16, 0.03)])
def test_upsampling_adds_the_gradients_of_an_element(size, dtype, tolerance):
    """With one row or column less, and along one axis alone."""
    weights = np.random.default_rng(0).normal(size=(2, *size, 5)).astype(np.float32)
    x = jnp.asarray(np.zeros((2, 2, 3, 5), dtype))
    rows, columns = (
        np.arange(n) // (1 + (n != m)) for n, m in zip(size, x.shape[1:3], strict=True)
    )
    want = np.zeros(x.shape)
    np.add.at(want, (slice(None), rows[:, None], columns[None]), weights)

    def total(x):
        return (upsample(x, size).astype(jnp.float32) * weights).sum()

    gradient = jax.jit(jax.grad(total))(x)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(np.asarray(gradient, np.float32), want, atol=tolerance)


def backbone_features(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    return {name: np.ones((1, size, size, 6), np.float32) for name, size in sizes.items()}


def run(module, *args, key=0, **options):
    """Returns the module's outputs for fresh variables, and these."""
    call = functools.partial(module.init_with_output, **options)
    return jax.jit(call)(jax.random.key(key), *args)


@pytest.mark.parametrize(
    ("source", "sizes"), [("c", [9, 5, 3, 2, 1]), ("p", [9, 5, 3, 2, 1]), ("pool", [9, 5, 3, 2, 1])]
)
def test_levels_come_finest_first_with_odd_sizes(source, sizes):
    fpn = FPN(channels=8, extra_source=source)
    features = backbone_features({"c2": 18, "c3": 9, "c4": 5, "c5": 3})
    outputs, variables = run(fpn, features)
    assert [x.shape for x in outputs] == [(1, size, size, 8) for size in sizes]
    extra = {"extra6", "extra7"} if source != "pool" else set()
    names = {f"{kind}{i}" for kind in ("lateral", "output") for i in (3, 4, 5)}
    assert set(variables["params"]) == names | extra


def test_pool_subsamples_the_last_output():
    fpn = FPN(in_features=("c4", "c5"), channels=8, extra_levels=1, extra_source="pool")
    features = {
        "c4": jax.random.normal(jax.random.key(1), (1, 8, 8, 6)),
        "c5": jax.random.normal(jax.random.key(2), (1, 4, 4, 6)),
    }
    outputs, _ = run(fpn, features)
    np.testing.assert_array_equal(outputs[2], outputs[1][:, ::2, ::2])


def test_a_missing_feature_is_an_error():
    with pytest.raises(ValueError, match="c5"):
        FPN().init(jax.random.key(0), backbone_features({"c3": 8, "c4": 4}))


def test_head_starts_at_its_prior_for_classes_and_not_for_boxes():
    head = RetinaNetHead(num_classes=3, num_anchors=2, channels=32, num_convs=1, prior=0.01)
    features = tuple(np.zeros((2, *size, 32), np.float32) for size in ((4, 5), (2, 3)))
    outputs, _ = run(head, features)
    assert [x.logits.shape for x in outputs] == [(2, 40, 3), (2, 12, 3)]
    assert [x.deltas.shape for x in outputs] == [(2, 40, 4), (2, 12, 4)]
    np.testing.assert_allclose(jax.nn.sigmoid(outputs[0].logits), 0.01, rtol=1e-5)
    np.testing.assert_array_equal(outputs[0].deltas, 0.0)


def test_head_orders_anchors_by_row_column_anchor():
    head = RetinaNetHead(num_classes=3, num_anchors=2, channels=32, num_convs=0)
    x = jax.random.normal(jax.random.key(0), (1, 4, 5, 32))
    (whole,), variables = run(head, (x,), key=1)
    row, column = 2, 3
    window = x[:, row - 1 : row + 2, column - 1 : column + 2]
    (part,) = head.apply(variables, (window,))
    index = (row * 5 + column) * 2
    np.testing.assert_allclose(
        whole.logits[0, index : index + 2], part.logits[0, 8:10], rtol=1e-4, atol=1e-5
    )


def test_head_with_group_norm_and_bfloat16():
    head = RetinaNetHead(
        num_classes=3, channels=32, num_convs=1, norm="group_norm", dtype=jnp.bfloat16
    )
    (out,), variables = run(head, (np.zeros((1, 2, 2, 32), jnp.bfloat16),), train=True)
    assert out.logits.dtype == out.deltas.dtype == jnp.bfloat16
    assert set(variables["params"]["class_tower"]["conv0"]) == {"kernel"}  # the norm has the bias


def test_scores_of_a_bfloat16_head_do_not_tie():
    features = jax.random.normal(jax.random.key(1), (1, 8, 8, 16), jnp.bfloat16)
    options = {"channels": 16, "num_convs": 0, "dtype": jnp.bfloat16}

    def distinct(x) -> int:
        assert x.dtype == jnp.float32
        return len(np.unique(x))

    dense = RetinaNetHead(num_classes=3, num_anchors=2, **options)
    rpn = RPNHead(num_anchors=2, **options)
    for head, logits in ((dense, 8 * 8 * 2 * 3), (rpn, 8 * 8 * 2)):
        (out,), _ = run(head, (features,))
        assert distinct(out.logits) > 0.98 * logits
        assert distinct(out.deltas) > 0.98 * 8 * 8 * 2 * 4
    box = BoxHead(num_classes=3, num_fcs=0, dtype=jnp.bfloat16)
    rois = features.reshape(64, 1, 1, 16)
    out, _ = run(box, rois, np.ones(64, bool), train=False)
    assert distinct(out.logits) > 0.98 * 64 * 4
    assert distinct(out.deltas) > 0.98 * 64 * 3 * 4


def test_detector_strides_with_levels_from_the_last_stages():
    model = RetinaNet(
        backbone=IPGNet(ResNet(num_stages=7)),
        fpn=FPN(in_features=("c5", "c6", "c7", "c8"), extra_levels=0),
        head=RetinaNetHead(num_classes=2),
    )
    assert model.strides == (32, 64, 128, 256)
