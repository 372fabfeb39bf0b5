"""The training step over meshes, micro-batches and averages."""

from unittest import mock

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from configs.common import two_stage
from ipg_jax import build_task
from ipg_jax.data import DigitsSource, train_batches
from ipg_jax.training.build import build_optimizer
from ipg_jax.training.sharding import (
    check_batch_size,
    make_mesh,
    replicated,
    shard_batch,
)
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import make_train_step, split_batch

STEPS = 20


def mesh_of(data: int) -> Mesh:
    devices = np.array(jax.devices()[:data]).reshape(data, 1)
    return Mesh(devices, ("data", "space"))


def run(config, mesh: Mesh, steps: int, **kwargs) -> tuple[TrainState, list[dict[str, float]]]:
    """Takes `steps` training steps; returns the last state and the metrics of each step."""
    task = build_task(config)
    optimizer, schedule = build_optimizer(config, num_steps=STEPS, steps_per_epoch=1.0)
    key = jax.random.key(0)
    ema = "ema_decay" in kwargs
    state = jax.jit(
        lambda key: TrainState.create(task.init(key), optimizer, ema=ema),
        out_shardings=replicated(mesh),
    )(key)
    step = make_train_step(task, optimizer, schedule, mesh, **kwargs)
    batches = train_batches(
        DigitsSource("train", num_scenes=20, scene_size=64),
        batch_size=config.batch_size,
        seed=0,
        image_size=(64, 64),
        levels=task.pyramid_levels,
        flip=0.0,
    )
    history = []
    for _ in range(steps):
        state, metrics = step(state, shard_batch(mesh, next(batches)), key)
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_eight_devices_give_the_losses_of_one(tiny_config):
    with tiny_config.unlocked():
        tiny_config.optimizer.learning_rate = 0.001  # larger ones amplify rounding, step by step
    _, one = run(tiny_config, mesh_of(1), STEPS)
    _, eight = run(tiny_config, mesh_of(8), STEPS)
    np.testing.assert_allclose([m["loss"] for m in eight], [m["loss"] for m in one], rtol=1e-4)
    assert one[-1]["loss"] < one[0]["loss"]


def test_eight_devices_give_the_losses_of_one_in_two_stages(tiny_config):
    with tiny_config.unlocked():
        two_stage(tiny_config, "faster_rcnn")
        tiny_config.model.update(
            head_norm="none", head_fc_channels=32, rpn_proposals=(60, 30), rois_per_image=16
        )
        tiny_config.optimizer.learning_rate = 0.001
    _, one = run(tiny_config, mesh_of(1), 3)
    _, eight = run(tiny_config, mesh_of(8), 3)
    for a, b in zip(eight, one, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    assert one[0]["positive_rois"] > 0


def test_accumulation_equals_one_large_batch(tiny_config):
    with tiny_config.unlocked():
        tiny_config.model.norm = "group_norm"  # batch norm sees each micro-batch by itself
    state, whole = run(tiny_config, mesh_of(1), 2)
    parts_state, parts = run(tiny_config, mesh_of(1), 2, accumulation=4)
    for a, b in zip(parts, whole, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
        parts_state.params["head"],
        state.params["head"],
    )


def test_the_average_follows_the_parameters(tiny_config):
    with tiny_config.unlocked():
        tiny_config.model.norm = "frozen_batch_norm"
    state, _ = run(tiny_config, mesh_of(1), 1, ema_decay=0.75)
    start, _ = run(tiny_config, mesh_of(1), 0, ema_decay=0.75)
    jax.tree.map(
        lambda ema, old, new: np.testing.assert_allclose(
            ema, 0.75 * old + 0.25 * new, rtol=1e-4, atol=1e-6
        ),
        state.ema["head"],
        start.params["head"],
        state.params["head"],
    )
    assert state.eval_variables["params"] is state.ema
    assert int(state.step) == 1


def test_micro_batches_take_every_nth_row():
    parts = split_batch({"x": np.arange(6)}, 2)
    np.testing.assert_array_equal(parts["x"], [[0, 2, 4], [1, 3, 5]])


def test_the_mesh_takes_all_devices():
    assert dict(make_mesh().shape) == {"data": 8, "space": 1}
    assert dict(make_mesh(space=2).shape) == {"data": 4, "space": 2}
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(data=3)
    with pytest.raises(ValueError, match="8 devices"):
        make_mesh(space=3)


def slice_of_tpu(*process_indices: int) -> list[jax.Device]:
    def device(number: int, process_index: int) -> jax.Device:
        return mock.create_autospec(jax.Device, id=number, process_index=process_index)

    return [device(*pair) for pair in enumerate(process_indices)]


def test_a_process_holds_whole_rows_of_the_mesh_in_its_turn():
    # The first two rows of a v5e 4x4, whose hosts have 2x2 chips each.
    devices = slice_of_tpu(0, 0, 1, 1, 0, 0, 1, 1)
    for space in (1, 2, 4):
        mesh = make_mesh(space=space, devices=devices)
        processes = [[device.process_index for device in row] for row in mesh.devices]
        rows = 4 // space
        assert processes == [[0] * space] * rows + [[1] * space] * rows
    with pytest.raises(ValueError, match="space=8 does not divide the 4 devices of each process"):
        make_mesh(space=8, devices=devices)
    with pytest.raises(ValueError, match=r"different numbers of devices: \{0: 4, 1: 2\}"):
        make_mesh(devices=slice_of_tpu(0, 0, 1, 1, 0, 0))


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (8, 2), (0, 1)])
def test_batches_must_divide(batch_size: int, accumulation: int):
    with pytest.raises(ValueError, match="multiple"):
        check_batch_size(make_mesh(), batch_size, accumulation)
