import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import BACKBONES, Backbone, IPGNet, ResNet


def pyramid(levels: int, side: int = 64, batch: int = 1) -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(7), levels)
    return tuple(
        jax.random.normal(key, (batch, side >> i, side >> i, 3)) for i, key in enumerate(keys)
    )


def shapes(backbone: IPGNet, side: int = 64):
    images = pyramid(max(backbone.pyramid_levels, 1), side)
    init = functools.partial(backbone.init_with_output, train=False)
    outputs, variables = jax.eval_shape(init, jax.random.key(0), images)
    return variables, {name: x.shape for name, x in outputs.items()}


@pytest.mark.parametrize(
    ("depth", "widths", "millions"),
    # Parameters of torchvision's models, which have no ResNet-10, without the last layer.
    [
        (10, (64, 128, 256, 512), 4.906),
        (18, (64, 128, 256, 512), 11.177),
        (34, (64, 128, 256, 512), 21.285),
        (50, (256, 512, 1024, 2048), 23.508),
        (101, (256, 512, 1024, 2048), 42.500),
    ],
)
def test_plain_resnet_has_torchvisions_shapes_and_size(depth, widths, millions):
    variables, outputs = shapes(IPGNet(ResNet(depth), fusion_stages=()))
    assert outputs == {f"c{i + 2}": (1, 16 >> i, 16 >> i, width) for i, width in enumerate(widths)}
    size = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert round(size / 1e6, 3) == millions


def test_a_narrow_resnet_has_fewer_channels_everywhere():
    variables, outputs = shapes(IPGNet(ResNet(50, base_channels=16), fusion_stages=(2,)))
    assert [shape[-1] for shape in outputs.values()] == [64, 128, 256, 512]
    params = variables["params"]
    assert params["conv1"]["kernel"].shape == (7, 7, 3, 16)
    assert params["layer1"]["block0"]["conv2"]["kernel"].shape == (3, 3, 16, 16)
    assert params["layer4"]["block2"]["conv2"]["kernel"].shape == (3, 3, 128, 128)
    assert params["fusion2"]["w_s"]["kernel"].shape == (128, 128)


def test_names_are_torchvisions_with_slashes():
    variables, _ = shapes(IPGNet(ResNet(50), fusion_stages=(3,)))
    paths = {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    assert {
        "conv1/kernel",
        "bn1/scale",
        "layer1/block0/downsample_conv/kernel",
        "layer4/block2/conv3/kernel",
        "ipg3/conv1/kernel",
        "ipg3/block0/downsample_conv/kernel",
        "fusion3/w_s/kernel",
    } <= paths
    assert not [path for path in paths if path.startswith(("ipg2", "ipg4", "fusion2"))]


@pytest.mark.parametrize("num_stages", [4, 5, 6, 7])
@pytest.mark.parametrize("keep", [False, True])
def test_extra_stages(num_stages: int, keep: bool):
    backbone = IPGNet(
        ResNet(10, num_stages=num_stages, keep=keep),
        fusion_stages=tuple(range(1, num_stages + 1)),
    )
    _, outputs = shapes(backbone, side=256)
    assert len(outputs) == num_stages
    for name, stride in backbone.strides.items():
        assert outputs[name][1:3] == (256 // stride, 256 // stride)
    assert outputs[f"c{num_stages + 1}"][3] == 512
    assert backbone.pyramid_levels == (4 if keep else num_stages)


def test_each_stage_may_have_a_fusion_of_its_own():
    backbone = IPGNet(ResNet(10), fusion=("product", "attention"), fusion_stages=(3, 2))
    variables, _ = shapes(backbone)
    names = {stage: set(variables["params"][f"fusion{stage}"]) for stage in (2, 3)}
    assert names == {3: {"w_s", "w_m", "norm"}, 2: {"w_g", "w_s"}}


def test_guidance_has_the_width_of_its_stage():
    variables, _ = shapes(IPGNet(ResNet(50)))
    for stage, width in ((2, 512), (3, 1024), (4, 2048)):
        block = variables["params"][f"ipg{stage}"]["block0"]
        assert block["conv3"]["kernel"].shape[-1] == width  # C1 * 2^i of the paper's figure 2


def test_identity_graft_equals_the_plain_backbone_bit_for_bit():
    plain = IPGNet(ResNet(10), fusion_stages=())
    guided = IPGNet(ResNet(10), fusion_stages=(1, 2, 3, 4), fusion_init="identity")
    images = pyramid(4)
    init = jax.jit(functools.partial(guided.init, train=False))
    variables = init(jax.random.key(0), images)
    trunk = {
        kind: {k: v for k, v in tree.items() if not k.startswith(("ipg", "fusion"))}
        for kind, tree in variables.items()
        if kind in ("params", "batch_stats")
    }
    want = jax.jit(functools.partial(plain.apply, train=False))(trunk, images)
    got = jax.jit(functools.partial(guided.apply, train=False))(variables, images)
    for name in want:
        np.testing.assert_array_equal(np.asarray(got[name]), np.asarray(want[name]))


def test_training_gives_what_prediction_gives_with_frozen_norms():
    resnet = ResNet(10, base_channels=8, norm="frozen_batch_norm")
    backbone = IPGNet(resnet, fusion_stages=(3, 2), norm="frozen_batch_norm")
    images = pyramid(3)
    init = jax.jit(functools.partial(backbone.init, train=False))
    variables = init(jax.random.key(0), images)

    def outputs(variables, images, train: bool):
        return backbone.apply(variables, images, train=train)

    want, got = (jax.jit(outputs, static_argnums=2)(variables, images, t) for t in (False, True))
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    backbone = IPGNet(ResNet(10, dtype=jnp.bfloat16, norm="group_norm"), norm="group_norm")
    images = tuple(x.astype(jnp.bfloat16) for x in pyramid(4))
    init = functools.partial(backbone.init, train=False)
    variables = jax.eval_shape(init, jax.random.key(0), images)
    assert {x.dtype for x in jax.tree.leaves(variables["params"])} == {jnp.dtype("float32")}
    outputs = jax.eval_shape(functools.partial(backbone.apply, train=True), variables, images)
    assert {x.dtype for x in outputs.values()} == {jnp.dtype("bfloat16")}


def test_activations_can_be_captured():
    backbone = IPGNet(ResNet(10), fusion_stages=(2,))
    images = pyramid(2)
    variables = jax.eval_shape(
        functools.partial(backbone.init, train=False), jax.random.key(0), images
    )
    apply = functools.partial(backbone.apply, train=False, mutable=["intermediates"])
    outputs, state = jax.eval_shape(apply, variables, images)
    seen = {name: x[0].shape for name, x in state["intermediates"].items()}
    assert seen == dict.fromkeys(("guidance2", "main2", "fused2"), outputs["c3"].shape)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"fusion": "max"}, "fusion"),
        ({"fusion": ("sum", "max", "sum")}, "fusion is one of"),
        ({"fusion": ("sum", "concat")}, "2 names for the 3 fusion_stages"),
        ({"fusion_stages": (5,)}, "fusion_stages"),
        ({"fusion_init": "zero"}, "fusion_init"),
        ({"norm": "layer"}, "norm"),
        ({"remat": "all"}, "remat"),
    ],
)
def test_wrong_attributes_of_guidance_are_named(kwargs, message):
    with pytest.raises(Exception, match=message):
        IPGNet(ResNet(10), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"depth": 20}, "depth"),
        ({"base_channels": 0}, "base_channels"),
        ({"num_stages": 3}, "num_stages"),
        ({"norm": "layer"}, "norm"),
    ],
)
def test_wrong_attributes_of_a_resnet_are_named(kwargs, message):
    with pytest.raises(Exception, match=message):
        ResNet(**kwargs)


@pytest.mark.parametrize("name", BACKBONES)
def test_what_is_registered_keeps_the_protocol(name: str):
    backbone = BACKBONES[name](dtype=jnp.bfloat16)
    assert isinstance(backbone, Backbone)
    _, outputs = shapes(IPGNet(backbone, fusion_stages=()))
    assert {key: shape[-1] for key, shape in outputs.items()} == backbone.channels
    assert {key: 64 // shape[1] for key, shape in outputs.items()} == backbone.strides


def test_too_few_pyramid_levels_are_an_error():
    backbone = IPGNet(ResNet(10))
    with pytest.raises(ValueError, match="need 4 pyramid levels, got 2"):
        jax.eval_shape(functools.partial(backbone.init, train=False), jax.random.key(0), pyramid(2))
