import functools
import importlib
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

from configs.common import MOVED, default_config
from ipg_jax import Batch, build_task
from ipg_jax.models.backbones import BACKBONES, ConvNeXt, resnet
from ipg_jax.weights import differences, model_arrays

NAMES = sorted(
    path.stem
    for path in pathlib.Path(__file__).parents[1].joinpath("configs").glob("*.py")
    if path.stem not in ("__init__", "common")
)


def get_config(name: str, argument: str | None = None):
    return importlib.import_module(f"configs.{name}").get_config(argument)


def abstract_batch(levels: int, side: int, images=2) -> Batch:
    def array(shape, dtype):
        return jax.ShapeDtypeStruct((images, *shape), dtype)

    return Batch(
        pyramid=tuple(array((side >> i, side >> i, 3), jnp.uint8) for i in range(levels)),
        boxes=array((8, 4), jnp.float32),
        labels=array((8,), jnp.int32),
        valid=array((8,), jnp.bool_),
        ignore=array((8,), jnp.bool_),
        image_size=array((2,), jnp.int32),
        scale=array((2,), jnp.float32),
        image_id=array((), jnp.int32),
        weight=array((), jnp.float32),
    )


@pytest.fixture
def shallow(monkeypatch):
    """ResNets and ConvNeXts with one block in each stage, which are traced in less time."""
    for depth, architecture in resnet.ARCHITECTURES.items():
        one = architecture._replace(blocks=(1, 1, 1, 1))
        monkeypatch.setitem(resnet.ARCHITECTURES, depth, one)
    for name in ("convnext_tiny", "convnext_small"):
        one = functools.partial(ConvNeXt, depths=(1, 1, 1, 1))
        monkeypatch.setitem(BACKBONES, name, one)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_makes_a_task_with_a_loss_and_detections(name: str, shallow):
    config = get_config(name)
    config.model.kernels = "reference"  # whose programs are the shortest
    task = build_task(config)
    variables = jax.eval_shape(task.init, jax.random.key(0))
    batch = abstract_batch(task.pyramid_levels, side=512)
    loss, metrics = jax.eval_shape(
        lambda *args, key: task.loss(*args, rng=key), variables, batch, key=jax.random.key(0)
    )
    assert loss.shape == ()
    assert metrics["loss"].shape == ()
    assert any(name.startswith("loss_box") for name in metrics)
    (images,) = jax.export.symbolic_shape("b")  # any number of them, as export asks for
    batch = abstract_batch(task.pyramid_levels, side=512, images=images)
    found = jax.eval_shape(task.predict, variables, batch.pyramid, batch.image_size)
    assert found.boxes.shape == (images, 100, 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_config_says_how_to_run_it(name: str):
    module = importlib.import_module(f"configs.{name}")
    assert f"python train.py --config=configs/{name}.py" in module.__doc__


@pytest.mark.parametrize("name", NAMES)
def test_every_config_is_locked_and_suggests_the_nearest_name(name: str):
    config = get_config(name)
    assert config.is_locked
    with pytest.raises(AttributeError, match="batch_size"):
        config.batch_sise = 4


def test_the_commands_for_the_papers_tables_make_models():
    text = pathlib.Path(__file__).parents[1].joinpath("docs", "reproducing.md").read_text()
    commands = set(re.findall(r"`train (\w+)\.py(?::([\w=,]*))?", text))
    assert len(commands) >= 18
    for name, argument in sorted(commands):
        task = build_task(get_config(name, argument))
        # The levels of regions are checked when they are pooled.
        if "keep" in argument:
            variables = jax.eval_shape(task.init, jax.random.key(0))
            batch = abstract_batch(task.pyramid_levels, side=512)
            jax.eval_shape(task.predict, variables, batch.pyramid, batch.image_size)


def test_arguments_choose_the_variant():
    config = get_config("retinanet_ipg", "fusion=product,depth=101,stages=3")
    assert config.model.fusion == "product"
    assert config.model.backbone == "resnet101"
    assert config.model.fusion_stages == (3,)
    assert get_config("retinanet_ipg", "stages=").model.fusion_stages == ()
    assert get_config("retinanet_ipg_deep", "keep=1").model.keep is True


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("fusoin=sum", "did you mean 'fusion'"),
        ("fusion", "k=v .* not 'fusion'"),
        ("depth:50", "k=v .* not 'depth:50'"),
    ],
)
def test_wrong_arguments_are_errors_with_a_hint(argument: str, message: str):
    with pytest.raises(ValueError, match=message):
        get_config("retinanet_ipg", argument)


@pytest.mark.parametrize("detector", ["retinanet", "faster_rcnn", "cascade_rcnn"])
def test_the_baseline_differs_by_the_guidance_only(detector: str):
    guided, plain = get_config(f"{detector}_ipg"), get_config(f"{detector}_resnet")
    assert plain.model.fusion_stages == ()
    with plain.unlocked():
        plain.model.fusion_stages = guided.model.fusion_stages
    assert plain.to_dict() == guided.to_dict()


def test_levels_of_one_stride_have_anchors_of_their_own():
    argument = "num_stages=7,keep=1"
    task = build_task(get_config("faster_rcnn_ipg", argument))
    assert task.model.strides == (4, 8, 16, 32, 32, 32, 32, 64)
    assert task.anchor_sizes == tuple((float(8 * 2**level),) for level in range(2, 10))
    deep = build_task(get_config("retinanet_ipg_deep", "keep=1"))
    assert deep.model.strides == (32, 32, 32, 32)
    # Those of the levels that halve the resolution.
    assert deep.anchor_sizes == build_task(get_config("retinanet_ipg_deep")).anchor_sizes
    assert len(set(deep.anchor_sizes)) == 4


def test_retinanet_anchors_are_torchvisions():
    task = build_task(get_config("retinanet_resnet"))
    assert task.anchor_sizes == tuple(
        (float(x), float(int(x * 2 ** (1 / 3))), float(int(x * 2 ** (2 / 3))))
        for x in (32, 64, 128, 256, 512)
    )


def test_two_stage_detectors_are_torchvisions_and_the_papers():
    task = build_task(get_config("faster_rcnn_ipg", "num_stages=5"))
    assert task.anchor_sizes == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,), (1024.0,))
    assert task.model.roi_strides == (4, 8, 16, 32, 64)
    cascade = build_task(get_config("cascade_rcnn_ipg"))
    assert cascade.model.backbone.backbone.depth == 101
    assert cascade.model.backbone.fusion_stages == (3,)
    assert [stage.iou for stage in cascade.roi_heads.stages] == [0.5, 0.6, 0.7]


@pytest.mark.parametrize("name", ["retinanet_ipg", "faster_rcnn_ipg", "cascade_rcnn_ipg"])
@pytest.mark.parametrize("num_stages", [4, 5, 7])
def test_the_fpn_follows_the_number_of_stages_however_it_is_set(name: str, num_stages: int):
    by_argument = get_config(name, f"num_stages={num_stages}")
    by_override = get_config(name)
    by_override.model.num_stages = num_stages
    task = build_task(by_override)
    assert task == build_task(by_argument)
    features = tuple(f"c{i}" for i in range(3 if name == "retinanet_ipg" else 2, num_stages + 2))
    assert task.model.fpn.in_features == features
    assert task.model.fpn.extra_levels == (2 if name == "retinanet_ipg" else 1)


def test_levels_that_are_set_are_kept():
    assert get_config("retinanet_ipg_deep").model.fpn_levels == (5, 8)
    model = build_task(get_config("retinanet_ipg_deep")).model
    assert model.fpn.in_features == ("c5", "c6", "c7", "c8")
    assert model.fpn.extra_levels == 0


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_name_of_version_0_1_is_an_error_that_says_the_new_one(name: str):
    message = rf"config\.model\.{name} is now config\.model\.{MOVED[name]}"
    for config in (default_config(), get_config("retinanet_ipg")):
        with pytest.raises(AttributeError, match=message):
            getattr(config.model, name)
        with pytest.raises(AttributeError, match=message):
            setattr(config.model, name, 1)
        for path in re.findall(r"[a-z_]+\.[a-z_]+$|^[a-z_]+\.[a-z_]+", MOVED[name]):
            section, field = path.split(".")
            assert field in config.model[section]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dtype", "float16", "dtype"),
        ("detector", "ssd", "detector"),
        ("fpn_levels", (6, 7), "fpn_levels"),
        ("backbone", "resnet20", "backbone"),
        ("fusion", "max", "fusion"),
    ],
)
def test_values_out_of_range_are_named(field: str, value, message: str):
    config = default_config()
    config.model[field] = value
    with pytest.raises(ValueError, match=message):
        build_task(config)


def test_fine_tuning_starts_from_torchvisions_retinanet():
    # The fields that `docs/weights.md` gives for that file, which tests/parity holds to.
    plain = get_config("retinanet_resnet", "norm=frozen_batch_norm").unlock()
    plain.model.fpn_extra = "p"
    config = get_config("finetune_retinanet")
    trained, guided = (
        model_arrays(jax.eval_shape(build_task(x).init, jax.random.key(0))) for x in (plain, config)
    )
    assert differences(guided, trained, missing=config.init_missing) == []
    lacking = differences(guided, trained)
    assert lacking
    assert all(line.startswith(("missing: ", "... and ")) for line in lacking)
    alone = build_task(get_config("finetune_retinanet", "stages="))
    assert model_arrays(jax.eval_shape(alone.init, jax.random.key(0))).keys() == trained.keys()
