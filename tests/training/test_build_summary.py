"""The size of a model against sums by hand."""

import jax
import pytest
from tiny_run import make_tiny_config

from ipg_jax import build_task
from ipg_jax.training.build_summary import summarize_model


@pytest.fixture(scope="module")
def summary():
    return summarize_model(make_tiny_config())


def test_parameters_are_those_of_the_model(summary):
    task = build_task(make_tiny_config())
    params = jax.eval_shape(task.init, jax.random.key(0))["params"]
    assert sum(summary.parameters.values()) == sum(x.size for x in jax.tree.leaves(params))
    assert summary.parameters.keys() == {"backbone", "fpn", "head"}
    assert summary.state_bytes > 2 * 4 * sum(summary.parameters.values())  # with momentum


def test_operations_and_what_is_kept_grow_with_the_image(summary):
    config = make_tiny_config().copy_and_resolve_references().unlock()
    config.image_size = tuple(2 * side for side in config.image_size)
    larger = summarize_model(config.lock())
    assert larger.image_size == tuple(2 * side for side in summary.image_size)
    for name in ("flops", "kept_bytes"):
        assert 3.5 < getattr(larger, name) / getattr(summary, name) < 4.3
    assert larger.parameters == summary.parameters
    assert larger.state_bytes == summary.state_bytes


def test_recomputed_stages_keep_less(summary):
    config = make_tiny_config().copy_and_resolve_references().unlock()
    config.model.remat = "full"
    assert summarize_model(config.lock()).kept_bytes < 0.8 * summary.kept_bytes


def test_a_config_for_many_devices_is_summed_on_one(summary):
    config = make_tiny_config().copy_and_resolve_references().unlock()
    config.mesh.space = 1000
    assert summarize_model(config.lock()) == summary
