"""ConvNeXt, plain and guided. That it gives torchvision's features is tested in `tests/parity`."""

import functools
import json
import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ipg_jax import Batch
from ipg_jax.models import BACKBONES, FPN, ConvNeXt, IPGNet, RetinaNet, RetinaNetHead
from ipg_jax.tasks import RetinaNetTask
from ipg_jax.types import PackedImage

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "detectors.npz"


def narrow(**kwargs) -> ConvNeXt:
    """One block in each stage; of scales that are seen."""
    return ConvNeXt(depths=(1, 1, 1, 1), base_channels=16, layer_scale_init=0.5, **kwargs)


def make_pyramid(levels: int = 1, height: int = 64, width: int = 64) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(7), levels)
    return tuple(
        jax.random.normal(key, (2, height >> i, width >> i, 3)) for i, key in enumerate(keys)
    )


def init(net: IPGNet, pyramid):
    return jax.jit(functools.partial(net.init, train=False))(jax.random.key(0), pyramid)


def apply(net: IPGNet, variables, pyramid):
    return jax.jit(functools.partial(net.apply, train=False))(variables, pyramid)


@pytest.mark.parametrize(
    ("name", "millions"), [("convnext_tiny", 27.819), ("convnext_small", 49.453)]
)
def test_shapes_and_size_are_torchvisions(name: str, millions: float):
    net = IPGNet(BACKBONES[name](), fusion_stages=())
    call = functools.partial(net.init_with_output, train=False)
    outputs, variables = jax.eval_shape(call, jax.random.key(0), make_pyramid())
    assert {key: x.shape for key, x in outputs.items()} == {
        "c2": (2, 16, 16, 96),
        "c3": (2, 8, 8, 192),
        "c4": (2, 4, 4, 384),
        "c5": (2, 2, 2, 768),
    }
    size = sum(x.size for x in jax.tree.leaves(variables["params"]))
    shapes = json.loads(str(np.load(GOLDEN)["shapes"]))[name]
    classifier = sum(math.prod(x) for key, x in shapes.items() if key.startswith("classifier."))
    assert size == sum(map(math.prod, shapes.values())) - classifier
    assert round(size / 1e6, 3) == millions  # 28.59 and 50.22 with the classifier


def test_names_of_parameters():
    net = IPGNet(narrow(), fusion_stages=(2,), norm="group_norm")
    shapes = jax.eval_shape(
        lambda: net.init(jax.random.key(0), make_pyramid(2), train=False)["params"]
    )
    assert set(shapes) == {"conv1", "norm1", "ipg2", "fusion2", *(f"layer{s}" for s in range(1, 5))}
    assert set(shapes["layer1"]) == {"block0"}
    assert set(shapes["layer2"]) == {"downsample_norm", "downsample_conv", "block0"}
    block = jax.tree.map(jnp.shape, shapes["layer2"]["block0"])
    assert block == {
        "conv": {"kernel": (7, 7, 1, 32), "bias": (32,)},
        "norm": {"scale": (32,), "bias": (32,)},
        "fc1": {"kernel": (32, 128), "bias": (128,)},
        "fc2": {"kernel": (128, 32), "bias": (32,)},
        "layer_scale": (32,),
    }


def test_packed_images_give_what_plain_ones_give():
    net = IPGNet(narrow(), fusion_stages=(2,), norm="group_norm")
    pyramid = make_pyramid(2)
    variables = init(net, pyramid)
    want = apply(net, variables, pyramid)
    got = apply(net, variables, tuple(map(PackedImage.pack, pyramid)))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-4, atol=1e-5)


def test_odd_sizes_are_rounded_up():
    net = IPGNet(narrow(), fusion_stages=())
    pyramid = make_pyramid(height=36, width=44)
    outputs = apply(net, init(net, pyramid), pyramid)
    sizes = {name: x.shape[1:3] for name, x in outputs.items()}
    assert sizes == {"c2": (9, 11), "c3": (5, 6), "c4": (3, 3), "c5": (2, 2)}


def test_guidance_that_starts_as_the_identity_equals_the_plain_net_bit_for_bit():
    guided = IPGNet(narrow(), fusion_stages=(2, 3, 4), fusion_init="identity", norm="group_norm")
    plain = IPGNet(narrow(), fusion_stages=())
    pyramid = make_pyramid(4)
    params = init(guided, pyramid)["params"]
    trunk = {k: v for k, v in params.items() if not k.startswith(("ipg", "fusion"))}
    assert len(params) - len(trunk) == 6
    want = apply(plain, {"params": trunk}, pyramid)
    got = apply(guided, {"params": params}, pyramid)
    for name in want:
        np.testing.assert_array_equal(got[name], want[name])


def test_blocks_that_are_computed_again_have_the_same_gradients():
    pyramid = make_pyramid()
    plain, again = (IPGNet(narrow(remat=remat), fusion_stages=()) for remat in (False, True))
    variables = init(plain, pyramid)

    def gradients(net: IPGNet):
        def total(variables):
            return jnp.sum(net.apply(variables, pyramid, train=True)["c5"] ** 2)

        return jax.jit(jax.grad(total))(variables)

    def close(got, want):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-6 * np.abs(want).max())

    jax.tree.map(close, gradients(again), gradients(plain))


def test_bfloat16_is_computed_with_float32_parameters_and_norms():
    net = IPGNet(narrow(dtype=jnp.bfloat16), fusion_stages=(2,), norm="group_norm")
    pyramid = tuple(x.astype(jnp.bfloat16) for x in make_pyramid(2))
    call = functools.partial(net.init_with_output, train=False)
    outputs, variables = jax.eval_shape(call, jax.random.key(0), pyramid)
    assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}
    assert {x.dtype for x in outputs.values()} == {jnp.dtype("bfloat16")}
    run = functools.partial(net.apply, train=True)
    program = jax.make_jaxpr(run)(variables, pyramid).pretty_print().splitlines()
    roots = [line for line in program if " = rsqrt" in line]
    assert len(roots) >= 8  # of the stem, three downsamplings and four blocks
    assert all(":f32[" in line for line in roots)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"depths": (3, 0, 9, 3)}, "depths"), ({"base_channels": 0}, "base_channels")],
)
def test_wrong_attributes_are_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXt(**kwargs)


def test_a_guided_detector_learns_two_images_by_heart():
    task = RetinaNetTask(
        model=RetinaNet(
            backbone=IPGNet(narrow(), fusion_stages=(2,), norm="group_norm"),
            fpn=FPN(channels=32, extra_levels=0),
            head=RetinaNetHead(num_classes=2, num_anchors=1, channels=32, num_convs=1),
        ),
        anchor_sizes=((16.0,), (32.0,), (64.0,)),
        anchor_ratios=(1.0,),
    )
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    image[0, 8:24, 8:24], image[1, 24:56, 16:48] = (255, 0, 0), (0, 0, 255)
    batch = Batch(
        pyramid=(image, image[:, ::2, ::2]),
        boxes=np.float32([[[8, 8, 24, 24]], [[16, 24, 48, 56]]]),
        labels=np.int32([[0], [1]]),
        valid=np.ones((2, 1), bool),
        ignore=np.zeros((2, 1), bool),
        image_size=np.full((2, 2), 64, np.int32),
        scale=np.ones((2, 2), np.float32),
        image_id=np.arange(2, dtype=np.int32),
        weight=np.ones(2, np.float32),
    )
    params = task.init(jax.random.key(0))["params"]
    optimizer = optax.adamw(1e-3)

    @jax.jit
    def step(params, state):
        gradient_of = jax.value_and_grad(lambda params: task.loss({"params": params}, batch)[0])
        loss, gradients = gradient_of(params)
        with jax.numpy_dtype_promotion("standard"):  # Optax mixes types
            updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = optimizer.init(params), []
    for _ in range(40):
        params, state, loss = step(params, state)
        losses.append(float(loss))
    assert losses[-1] < losses[0] / 10
    found = jax.jit(task.predict)({"params": params}, batch.pyramid, batch.image_size)
    np.testing.assert_array_equal(found.labels[:, 0], [0, 1])
    np.testing.assert_allclose(found.boxes[:, 0], batch.boxes[:, 0], atol=4)
