"""Checkpoints and weight files of version 0.1.0 load, and the models give what they gave then."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from configs import faster_rcnn_ipg, retinanet_ipg
from ipg_jax import build_task, kernels
from ipg_jax.training.build import abstract_state, build_optimizer
from ipg_jax.training.build_trained import read_trained_config
from ipg_jax.training.checkpoint import Checkpoints, load_variables
from ipg_jax.training.sharding import make_mesh
from ipg_jax.weights import initialize, load_weights

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
WRITTEN = GOLDEN / "v0_1"

spec = importlib.util.spec_from_file_location("make_v0_1", GOLDEN / "make_v0_1.py")
make = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make)


# The configs of `make_v0_1.py`, by the names that fields have now.
def narrow(config):
    with config.unlocked():
        config.model.base_channels = 4
        config.model.num_classes = 3
        config.model.fpn_channels = 8
        config.model.dtype = "float32"
    return config


def retinanet_config():
    config = narrow(retinanet_ipg.get_config("depth=18,stages=23,fusion=concat"))
    config.model.retinanet_head.convs = 1
    config.model.retinanet_head.channels = 8
    config.optimizer.ema_decay = 0.9
    return config


def faster_rcnn_config():
    config = narrow(
        faster_rcnn_ipg.get_config("num_stages=5,stages=24,fusion=product,norm=frozen_batch_norm")
    )
    config.model.box_head.update(conv_channels=8, fc_channels=16)
    config.model.new_norm = "frozen_batch_norm"
    return config


def check(task, variables, name: str) -> None:
    want = dict(np.load(WRITTEN / f"{name}.npz"))
    with kernels.use("reference"):  # which compile in half the time
        got = make.outputs(task, variables)
    assert got.keys() == want.keys()
    for key, value in want.items():
        np.testing.assert_allclose(got[key], value, rtol=2e-3, atol=2e-3, err_msg=key)


def test_a_workdir_of_retinanet():
    config = retinanet_config()
    task = build_task(config)
    optimizer, _ = build_optimizer(config, num_steps=10, steps_per_epoch=1.0)
    mesh = make_mesh(devices=jax.devices()[:1])
    checkpoints = Checkpoints(WRITTEN / "retinanet" / "checkpoints", read_only=True)
    state = checkpoints.restore(abstract_state(config, task, optimizer, mesh))
    checkpoints.close()
    check(task, state.variables, "retinanet")
    for ours, theirs in zip(
        jax.tree.leaves(state.eval_variables),
        jax.tree.leaves(load_variables(WRITTEN / "retinanet")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_weight_file_of_faster_rcnn():
    task = build_task(faster_rcnn_config())
    shapes = jax.eval_shape(task.init, jax.random.key(0))
    fresh = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes))
    weights = load_weights(WRITTEN / "faster_rcnn.safetensors")
    assert weights.class_names == ("a", "b", "c")
    check(task, initialize(fresh, weights, class_names=("a", "b", "c")), "faster_rcnn")


@pytest.mark.parametrize("make_config", [retinanet_config, faster_rcnn_config])
def test_the_config_of_a_workdir_makes_the_same_model(make_config):
    config = read_trained_config(WRITTEN / make_config.__name__.removesuffix("_config"))
    today = make_config()
    with today.unlocked():
        today.model.ignore_overlap = None  # of which that version knew nothing
    assert build_task(config) == build_task(today)
    assert config.eval_every is config.num_steps is config.model.guidance_channels is None
    assert config.model.new_norm == make_config().model.norm  # that of all norms then


@pytest.mark.parametrize("name", ["retinanet", "faster_rcnn"])
def test_the_outputs_are_not_all_alike(name: str):
    for key, value in np.load(WRITTEN / f"{name}.npz").items():
        if key.startswith("outputs/0"):
            assert np.std(value) > 0.01
