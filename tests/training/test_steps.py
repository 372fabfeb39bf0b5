"""The training step over meshes, micro-batches and averages."""

import contextlib
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import jax
import numpy as np
import pytest
from blank_images import with_blank
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict
from PIL import Image

from configs.common import two_stage
from ipg_jax import Batch, Detections, build_task
from ipg_jax.data import CocoSource, DigitsSource, eval_batches, train_batches
from ipg_jax.training.build import build_optimizer
from ipg_jax.training.checkpoint import Checkpoints
from ipg_jax.training.sharding import (
    all_gather,
    check_batch_size,
    make_mesh,
    shard_batch,
    state_sharding,
)
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Policy, make_predict_step, make_train_step, split_batch
from ipg_jax.types import PackedImage

STEPS = 4
MIN_SIZE = 2**10  # so that arrays of tiny models are divided too


def mesh_of(batch: int, space: int = 1, fsdp: int = 1) -> Mesh:
    """Returns a mesh with so many devices along the batch."""
    devices = jax.devices()[: batch * space]
    return make_mesh(data=batch // fsdp, space=space, fsdp=fsdp, devices=devices)


def begin(config, mesh: Mesh, **kwargs):
    """Returns the task, the state's shapes and shardings, its first value and the step."""
    return _begin(FrozenConfigDict(config), mesh, **kwargs)


def state_maker(config: FrozenConfigDict, *, ema: bool) -> Callable[[jax.Array], TrainState]:
    task = build_task(config)
    optimizer, _ = build_optimizer(config, num_steps=STEPS, steps_per_epoch=1.0)
    return lambda key: TrainState.create(task.init(key), optimizer, ema=ema)


@functools.cache  # to compile it for each mesh takes longer than all of its steps
def _first_state(config: FrozenConfigDict, *, ema: bool) -> TrainState:
    return jax.device_get(jax.jit(state_maker(config, ema=ema))(jax.random.key(0)))


@functools.cache  # tests with the same step trace it once
def _begin(config: FrozenConfigDict, mesh: Mesh, **kwargs):
    task = build_task(config)
    optimizer, schedule = build_optimizer(config, num_steps=STEPS, steps_per_epoch=1.0)
    first = _first_state(config, ema="ema_decay" in kwargs)
    placement = state_sharding(mesh, first, min_size=MIN_SIZE)
    template = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        first,
        placement,
    )
    step = make_train_step(
        task.loss_and_updates,
        optimizer,
        mesh,
        schedule=schedule,
        policy=Policy(task.dtype),
        placement=placement,
        num_images=lambda batch: batch.weight.sum(),
        **kwargs,
    )
    return task, template, lambda: jax.device_put(first, placement, may_alias=False), step


def batches_of(config, task) -> Iterator[Batch]:
    return train_batches(
        DigitsSource("train", num_scenes=20, scene_size=64),
        batch_size=config.batch_size,
        seed=0,
        image_size=(64, 64),
        levels=task.pyramid_levels,
        flip=0.0,
    )


def run(
    config, mesh: Mesh, steps: int, *, blank: Sequence[int] = (), **kwargs
) -> tuple[TrainState, list[dict[str, float]]]:
    """Takes `steps` training steps; returns the last state and the metrics of each step.

    Rows of every batch are `blank`.
    """
    task, _, create, step = begin(config, mesh, **kwargs)
    state, batches = create(), batches_of(config, task)
    history = []
    for _ in range(steps):
        batch = shard_batch(mesh, with_blank(next(batches), blank))
        state, metrics = step(state, batch, jax.random.key(0))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.fixture
def steady_config(tiny_config):
    with tiny_config.unlocked():
        tiny_config.optimizer.learning_rate = 0.001  # larger ones amplify rounding, step by step
    return tiny_config


@pytest.fixture
def frozen_config(tiny_config):
    with tiny_config.unlocked():
        tiny_config.model.norm = "frozen_batch_norm"
    return tiny_config


@pytest.fixture(scope="module")
def of_one_device():
    """Returns the metrics of so many steps of a config on one device, which are taken once."""
    taken = {}

    def metrics(config, steps: int) -> list[dict[str, float]]:
        key = FrozenConfigDict(config)
        if len(taken.get(key, ())) < steps:
            _, taken[key] = run(config, mesh_of(1), steps)
        return taken[key][:steps]

    return metrics


@pytest.fixture
def two_stage_config(steady_config):
    with steady_config.unlocked():
        two_stage(steady_config, "faster_rcnn")
        steady_config.model.rpn.proposals = (60, 30)
        steady_config.model.box_head.update(fc_channels=32, rois_per_image=16)
    return steady_config


def test_a_state_that_is_made_divided_is_that_of_one_device(steady_config, caplog):
    config, mesh = FrozenConfigDict(steady_config), mesh_of(2, 4, fsdp=2)
    one = _first_state(config, ema=False)
    placement = state_sharding(mesh, one, min_size=MIN_SIZE)
    divided = jax.jit(state_maker(config, ema=False), out_shardings=placement)(jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), divided, one)
    kernel = divided.params["backbone"]["layer4"]["block0"]["conv2"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 3, 128, 64)
    whole = all_gather(mesh, divided)
    assert all(x.sharding.is_fully_replicated for x in jax.tree.leaves(whole))
    jax.tree.map(np.testing.assert_array_equal, whole, divided)
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        all_gather(mesh, divided)
    assert not [message for message in caplog.messages if "Compiling" in message]


@pytest.mark.parametrize("fsdp", [1, 4])
def test_eight_devices_give_the_losses_of_one(steady_config, of_one_device, fsdp: int):
    one = of_one_device(steady_config, STEPS)
    state, eight = run(steady_config, mesh_of(8, fsdp=fsdp), STEPS)
    kernel = state.params["backbone"]["layer4"]["block0"]["conv2"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 3, 128, 128 // fsdp)
    np.testing.assert_allclose([m["loss"] for m in eight], [m["loss"] for m in one], rtol=1e-4)
    assert one[-1]["loss"] < one[0]["loss"]


def test_divided_images_and_parameters_give_the_losses_of_one_device(steady_config, of_one_device):
    """Images of 64 rows on four devices leave C5 and the levels above it less than a row each.

    Gradients of the other detectors are compared in `tests/tools/test_sharded_gradients.py`.
    """
    one = of_one_device(steady_config, 3)
    state, divided = run(steady_config, mesh_of(2, 4, fsdp=2), 3)
    for a, b in zip(divided, one, strict=True):
        assert a == pytest.approx(b, rel=1e-4)

    kernel = state.params["backbone"]["layer4"]["block0"]["conv2"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) == (3, 3, 128, 64)
    matrix = state.params["backbone"]["fusion2"]["w_s"]["kernel"]
    assert matrix.sharding.shard_shape(matrix.shape) == (16, 32)
    (momenta,) = (x for x in state.opt_state if hasattr(x, "trace"))
    momentum = momenta.trace["backbone"]["layer4"]["block0"]["conv2"]["kernel"]
    assert momentum.sharding == kernel.sharding


def test_a_run_goes_on_with_other_devices(steady_config, of_one_device, tmp_path):
    """From one device to 2 x 4 of them with a divided state, and back."""

    def restored(mesh: Mesh):
        """Returns the newest checkpoint as it lies on `mesh`, and the step there."""
        _, template, _, step = begin(steady_config, mesh)
        with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
            found = checkpoints.restore(template)
        jax.tree.map(np.testing.assert_array_equal, found, state)
        placed = jax.tree.map(lambda x, y: x.sharding == y.sharding, found, template)
        assert all(jax.tree.leaves(placed))
        return found, step

    def save(number: int) -> None:
        with contextlib.closing(Checkpoints(tmp_path)) as checkpoints:
            checkpoints.save(number, state)

    steady = of_one_device(steady_config, 3)
    state, _ = run(steady_config, mesh_of(1), 1)
    save(1)
    batches = batches_of(steady_config, build_task(steady_config))
    next(batches)
    losses = []
    for number, mesh in enumerate([mesh_of(2, 4, fsdp=2), mesh_of(1)], start=2):
        begun, step = restored(mesh)
        state, metrics = step(begun, shard_batch(mesh, next(batches)), jax.random.key(0))
        losses.append(float(metrics["loss"]))
        save(number)
    np.testing.assert_allclose(losses, [m["loss"] for m in steady[1:]], rtol=1e-4)
    for shape in ((2, 1, 2), (1, 2), (4, 1, 2), (2, 2, 2), (8, 1, 8)):
        restored(mesh_of(*shape))


@pytest.mark.parametrize("detector", ["steady_config", "two_stage_config"])
def test_divided_images_give_the_boxes_of_one_device(detector, request):
    config = request.getfixturevalue(detector)

    def detect(mesh: Mesh) -> Detections:
        task, _, create, _ = begin(config, mesh)
        batch = shard_batch(mesh, next(batches_of(config, task)))
        return jax.device_get(make_predict_step(task.predict, mesh)(create().variables, batch)[0])

    one, divided = detect(mesh_of(1)), detect(mesh_of(2, 4, fsdp=2))
    np.testing.assert_array_equal(divided.valid, one.valid)
    assert one.valid.sum() > 100
    np.testing.assert_allclose(divided.boxes, one.boxes, atol=0.01)
    np.testing.assert_allclose(divided.scores, one.scores, rtol=1e-4)
    np.testing.assert_array_equal(divided.labels, one.labels)


def test_the_state_is_donated(steady_config):
    task, _, create, step = begin(steady_config, mesh_of(1))
    state = create()
    batch = shard_batch(mesh_of(1), next(batches_of(steady_config, task)))
    after, _ = step(state, batch, jax.random.key(0))
    assert all(array.is_deleted() for array in jax.tree.leaves(state))
    assert not any(array.is_deleted() for array in jax.tree.leaves((after, batch)))


def test_two_shapes_of_images_make_two_programs(frozen_config, tmp_path, caplog):
    shapes = [(40, 60), (60, 40), (48, 64), (50, 41), (39, 64), (64, 48)]
    annotations = [
        {"id": i + 1, "image_id": i, "category_id": i % 10, "bbox": [4, 4, 20, 20], "iscrowd": 0}
        for i in range(len(shapes))
    ]
    images = [
        {"id": i, "file_name": f"{i}.png", "height": height, "width": width}
        for i, (height, width) in enumerate(shapes)
    ]
    categories = [{"id": i, "name": str(i)} for i in range(10)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "instances.json").write_text(json.dumps(content))
    for i, shape in enumerate(shapes):
        Image.fromarray(np.full((*shape, 3), 40 * i, np.uint8)).save(tmp_path / f"{i}.png")

    mesh = mesh_of(1)
    with frozen_config.unlocked():
        frozen_config.model.fusion_stages = ()  # guidance would be traced as often
    task, _, create, step = begin(frozen_config, mesh)
    state = create()
    predict = make_predict_step(task.predict, mesh)
    source = CocoSource(tmp_path, tmp_path / "instances.json")
    sizes = {"batch_size": 2, "image_size": (64, 96), "levels": task.pyramid_levels}
    training = itertools.islice(train_batches(source, seed=0, **sizes), 8)
    seen = []
    with jax.log_compiles(), caplog.at_level("WARNING", "jax"):
        for batch in training:
            state, _ = step(state, shard_batch(mesh, batch), jax.random.key(0))
            seen.append(batch.pyramid[0].shape[1:3])
        for batch in eval_batches(source, **sizes):
            predict(state.variables, shard_batch(mesh, batch))
    assert len(set(seen)) == 2
    assert seen != sorted(seen)  # they take turns
    for name in ("step", "predict"):
        compiled = [r for r in caplog.messages if r.startswith(f"Compiling jit({name}) with")]
        assert len(compiled) == 2, caplog.messages


@pytest.mark.parametrize("blank", [(), (0, 4, 5)])
def test_accumulation_equals_one_large_batch(frozen_config, blank: Sequence[int]):
    """Also where micro-batches have none, one and two images that count.

    Batch norm, unless it is frozen, would see each micro-batch by itself.
    """
    options = {"ema_decay": 0.75, "blank": blank}
    state, whole = run(frozen_config, mesh_of(1), 2, **options)
    parts_state, parts = run(frozen_config, mesh_of(1), 2, accumulation=4, **options)
    for a, b in zip(parts, whole, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        parts_state.params["head"],
        state.params["head"],
    )


def test_accumulation_keeps_one_sum_of_gradients(frozen_config):
    """And not those of each micro-batch, which would take the memory of as many models."""
    mesh = mesh_of(1)
    task, template, _, step = begin(frozen_config, mesh, ema_decay=0.75, accumulation=4)
    batch = shard_batch(mesh, next(batches_of(frozen_config, task)))
    program = str(step.trace(template, batch, jax.random.key(0)).jaxpr)
    assert "f32[3,3,128,128]" in program
    assert "f32[4,3,3,128,128]" not in program


def test_the_average_follows_the_parameters(frozen_config):
    """In the first step by a tenth of what it was, however large the decay is."""
    state, _ = run(frozen_config, mesh_of(1), 1, ema_decay=0.75)
    start, _ = run(frozen_config, mesh_of(1), 0, ema_decay=0.75)
    jax.tree.map(
        lambda ema, old, new: np.testing.assert_allclose(
            ema, 0.1 * old + 0.9 * new, rtol=1e-4, atol=1e-6
        ),
        state.ema["params"]["head"],
        start.params["head"],
        state.params["head"],
    )
    frozen, before = state.ema["batch_stats"], start.batch_stats
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    assert state.eval_variables is state.ema
    assert int(state.step) == 1


def test_micro_batches_take_every_nth_row():
    parts = split_batch({"x": np.arange(6)}, 2)
    np.testing.assert_array_equal(parts["x"], [[0, 2, 4], [1, 3, 5]])


def test_the_mesh_takes_all_devices():
    def shape(**kwargs: int) -> tuple[int, ...]:
        mesh = make_mesh(**kwargs)
        assert mesh.axis_names == ("data", "fsdp", "space")
        return mesh.devices.shape

    assert shape() == (8, 1, 1)
    assert shape(space=2) == (4, 1, 2)
    assert shape(fsdp=4) == (2, 4, 1)
    assert shape(data=1, space=2) == (1, 4, 2)
    assert shape(data=2) == (2, 4, 1)
    assert shape(data=2, fsdp=2, space=2) == (2, 2, 2)
    for wrong in (
        {"data": 3},
        {"space": 3},
        {"fsdp": 3},
        {"fsdp": 16},
        {"fsdp": 0},
        {"space": -1},
        {"data": 0},
        {"data": 3, "space": 2},
        {"data": -2, "fsdp": -4},
        {"data": 8, "fsdp": 2},
    ):
        with pytest.raises(ValueError, match=r"config\.mesh\.space=-?\d+ do not divide the 8"):
            make_mesh(**wrong)


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (8, 2), (0, 1)])
def test_batches_must_divide(batch_size: int, accumulation: int):
    with pytest.raises(ValueError, match=r"config\.batch_size=\d+ .* config\.optimizer\.acc"):
        check_batch_size(make_mesh(), batch_size, accumulation)


def test_tpus_get_a_hint_of_batches_that_are_slow_there(caplog):
    devices = np.array([mock.Mock(platform="tpu")])
    mesh = mock.Mock(spec=Mesh, shape={"data": 4, "fsdp": 1, "space": 1}, devices=devices)
    check_batch_size(mesh, 64, accumulation=2)
    assert not caplog.records
    check_batch_size(mesh, 48, accumulation=2)
    assert "6 image(s)" in caplog.text
    assert caplog.text.endswith("config.batch_size=64, or config.mesh.space=4\n")
    check_batch_size(mesh, 4)  # eight images would need eight devices, and there are four
    assert caplog.text.endswith("config.batch_size=32\n")


@pytest.mark.parametrize(
    ("packed", "sides", "multiple"), [(False, (20, 10), 8), (True, (32, 16, 8), 64)]
)
def test_levels_must_divide_over_the_devices(packed: bool, sides: tuple[int, ...], multiple: int):
    pyramid = tuple(np.zeros((1, side, side, 3), np.uint8) for side in sides)
    batch = Batch(
        pyramid=tuple(map(PackedImage.pack, pyramid)) if packed else pyramid,
        **dict.fromkeys(
            ("boxes", "labels", "valid", "ignore", "image_size", "scale", "image_id", "weight"),
            np.zeros((1,), np.float32),
        ),
    )
    heights = re.escape(str(list(sides)))
    message = f"{heights} .* config.mesh.space=4: .* a multiple of {multiple} "
    with pytest.raises(ValueError, match=message):
        shard_batch(mesh_of(1, 4), batch)


def test_large_arrays_are_divided_along_their_longest_axis():
    shapes = {
        "kernel": (3, 3, 256, 512),
        "square": (3, 3, 256, 256),
        "matrix": (512, 512),
        "odd": (7, 7, 3, 513),
        "small": (16, 16),
    }
    arrays = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    state = TrainState(np.zeros((), np.int32), arrays, {}, (), None)
    divided = state_sharding(mesh_of(4, 2, fsdp=4), state)
    assert {name: tuple(s.spec) for name, s in divided.params.items()} == {
        "kernel": (None, None, None, "fsdp"),
        "square": (None, None, None, "fsdp"),
        "matrix": ("fsdp",),
        "odd": (),
        "small": (),
    }
    matrix = divided.params["matrix"]
    assert matrix.shard_shape((512, 512)) == (128, 512)
    # Two copies of the state, each of two neighbours.
    mesh = mesh_of(4, 2, fsdp=2)
    rows = state_sharding(mesh, state).params["matrix"].devices_indices_map((512, 512))
    starts = [[rows[device][0].start or 0 for device in line] for line in mesh.devices[:, :, 0]]
    assert starts == [[0, 256], [0, 256]]
    whole = state_sharding(mesh_of(4, 2), state)
    assert all(s.is_fully_replicated for s in jax.tree.leaves(whole))
