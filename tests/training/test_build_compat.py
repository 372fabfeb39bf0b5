"""Values of version 0.1 that said "not set"."""

import logging

import jax
import pytest
from ml_collections import ConfigDict

from configs.common import default_config
from ipg_jax.training.build import build_mesh, build_optimizer, build_task, run_length
from ipg_jax.training.build_compat import OLD_UNSET, current_values
from ipg_jax.training.build_runs import build_eval_run, build_train_run


def with_value(path: str, value: object) -> ConfigDict:
    config = default_config()
    config.update_from_flattened_dict({path: value})
    return config


@pytest.mark.parametrize("path", sorted(OLD_UNSET))
def test_an_old_value_is_none_and_is_logged_once(path: str, caplog):
    old = with_value(path, OLD_UNSET[path])
    new = current_values(old)
    assert new.to_dict() == default_config().to_dict()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"config.{path}={OLD_UNSET[path]!r}" in record.message
    assert f"config.{path}=None now" in record.message
    caplog.clear()
    assert current_values(new) is new
    assert not caplog.records


def test_the_callers_config_stays_as_it_is():
    old = with_value("num_steps", 0).lock()
    new = current_values(old)
    assert (old.num_steps, new.num_steps) == (0, None)
    assert new.is_locked


def test_only_at_the_end_has_a_field_of_its_own(caplog):
    new = current_values(with_value("eval_every", -1))
    assert (new.eval_every, new.eval_only_at_end) == (None, True)
    assert "config.eval_only_at_end=True now" in caplog.text


def test_the_old_meshes():
    def shape(**fields: int) -> tuple[int, ...]:
        config = default_config()
        config.mesh.update(fields)
        return build_mesh(config).devices.shape

    assert shape() == shape(data=-1, fsdp=1) == (8, 1, 1)
    assert shape(data=-1, fsdp=-1) == shape(fsdp=-1) == shape(data=1) == (1, 8, 1)
    assert shape(data=2, fsdp=-1) == (2, 4, 1)
    assert shape(data=-1, fsdp=2, space=2) == (2, 2, 2)


def test_everything_that_is_built_understands_them(tiny_config):
    with tiny_config.unlocked():
        tiny_config.num_steps = 0
        tiny_config.num_epochs = 2.0
        tiny_config.eval_only_at_end = False
        tiny_config.eval_every = 0
        tiny_config.init_from = tiny_config.optimizer.frozen = ""
        tiny_config.optimizer.clip_norm = tiny_config.optimizer.ema_decay = 0.0
        tiny_config.eval.batch_size = tiny_config.data.max_boxes = 0
        tiny_config.model.guidance_channels = 0
    assert run_length(tiny_config, 20) == (5, 2.5)
    assert build_task(tiny_config) == build_task(current_values(tiny_config))
    _, schedule = build_optimizer(tiny_config, num_steps=5, steps_per_epoch=2.5)
    assert schedule(0) > 0
    run = build_train_run(tiny_config)
    assert (run.num_steps, run.eval_every, run.init_from) == (5, 2, None)
    assert run.evaluator.batch_size == 8
    assert run.template.ema is None
    assert run.config["num_steps"] is None
    template = build_eval_run(tiny_config).template
    assert jax.tree.structure(template.params) == jax.tree.structure(run.template.params)
