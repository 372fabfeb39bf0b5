import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ipg_jax.training.checkpoint import Checkpoints, config_digest, load_variables
from ipg_jax.training.sharding import make_mesh, replicated
from ipg_jax.training.state import TrainState
from ipg_jax.training.workdir import load_initial


def make_state(value: float, *, ema: bool = False, width: int = 3) -> TrainState:
    variables = {
        "params": {"layer": {"kernel": jnp.full((2, width), value)}},
        "batch_stats": {"bn": {"mean": jnp.full((width,), -value)}},
    }
    state = TrainState.create(variables, optax.trace(0.9), ema=ema)
    return jax.device_put(state, replicated(make_mesh()))


def steps_on_disk(path) -> list[int]:
    return sorted(int(p.name) for p in path.iterdir() if p.name.isdigit())


def test_states_come_back_on_the_mesh(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, make_state(2.0))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    state = checkpoints.restore(make_state(0.0))
    assert checkpoints.latest == 5
    np.testing.assert_array_equal(state.params["layer"]["kernel"], np.full((2, 3), 2.0))
    assert state.params["layer"]["kernel"].sharding.is_fully_replicated
    assert len(state.params["layer"]["kernel"].sharding.device_set) == 8
    checkpoints.close()


def test_saving_compiles_nothing_that_the_training_would_wait_for(tmp_path, caplog):
    state = make_state(2.0, width=8)  # which divides over the devices with a copy
    with (
        contextlib.closing(Checkpoints(tmp_path)) as checkpoints,
        jax.log_compiles(),
        caplog.at_level("WARNING", "jax"),
    ):
        checkpoints.save(1, state)
    assert not [message for message in caplog.messages if "Compiling" in message]


def test_the_newest_and_the_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, ap in enumerate([0.1, 0.5, 0.3, None, 0.2], start=1):
        checkpoints.save(step, make_state(float(step)), {"AP": ap, "AP50": 0.9})
    checkpoints.save(6, make_state(6.0))
    assert checkpoints.best == 2
    assert checkpoints.latest == 6
    checkpoints.close()
    assert steps_on_disk(tmp_path) == [2, 5, 6]


def test_without_an_evaluation_there_is_no_best(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1.0))
    assert checkpoints.best is None
    checkpoints.close()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1.0))
    with pytest.raises(ValueError, match="does not fit this config"):
        checkpoints.restore(make_state(0.0, width=4))
    checkpoints.close()


def test_missing_checkpoints_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="was this run trained"):
        Checkpoints(tmp_path / "none", read_only=True)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(FileNotFoundError, match="there are none"):
        checkpoints.restore(make_state(0.0))
    checkpoints.close()


def test_variables_load_from_a_workdir_or_a_step_with_the_average(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    state = make_state(1.0, ema=True)
    checkpoints.save(1, state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema)), {"AP": 0.5})
    checkpoints.save(2, make_state(7.0, ema=True), {"AP": 0.1})
    checkpoints.close()
    best = load_variables(tmp_path)
    np.testing.assert_array_equal(best["params"]["layer"]["kernel"], np.full((2, 3), 2.0))
    np.testing.assert_array_equal(best["batch_stats"]["bn"]["mean"], np.zeros(3))
    second = load_variables(tmp_path / "checkpoints" / "2")
    np.testing.assert_array_equal(second["params"]["layer"]["kernel"], np.full((2, 3), 7.0))
    with pytest.raises(FileNotFoundError):
        load_variables(tmp_path / "checkpoints" / "3")

    digits = tmp_path / "20240517"  # a workdir, and no step of one
    digits.mkdir()
    (tmp_path / "checkpoints").rename(digits / "checkpoints")
    best = load_variables(digits)["params"]["layer"]["kernel"]
    for kernel in (best, load_initial(digits).arrays["layer/kernel"]):
        np.testing.assert_array_equal(kernel, np.full((2, 3), 2.0))


@pytest.mark.parametrize("name", ["x.ckpt", "20240517", "some.run"])
def test_what_a_run_cannot_start_from_is_named_with_what_it_can(name: str, tmp_path):
    kinds = r"a workdir .* checkpoints/<step> .* \(\.safetensors, \.pth"
    with pytest.raises(FileNotFoundError, match=rf"no config\.init_from=.*{name}; it is {kinds}"):
        load_initial(tmp_path / name)
    (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match=rf"config\.init_from=.*{name} is not {kinds}"):
        load_initial(tmp_path / name)


def test_an_average_of_parameters_alone_takes_the_statistics_beside_it(tmp_path):
    """As version 0.1 wrote it."""
    state, average = make_state(1.0, ema=True), make_state(5.0)
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        checkpoints.save(1, state.replace(ema=average.params))
        restored = checkpoints.restore(make_state(0.0, ema=True))
    want = {"params": average.params, "batch_stats": state.batch_stats}
    for found in (restored.eval_variables, load_variables(tmp_path)):
        jax.tree.map(np.testing.assert_array_equal, found, want)
    jax.tree.map(np.testing.assert_array_equal, restored.variables, state.variables)
    one, other = restored.batch_stats["bn"]["mean"], restored.ema["batch_stats"]["bn"]["mean"]
    pointers = {x.addressable_data(0).unsafe_buffer_pointer() for x in (one, other)}
    assert len(pointers) == 2  # both are donated


def test_the_digest_sees_every_value_and_no_order():
    assert config_digest({"a": 1, "b": 2}) == config_digest({"b": 2, "a": 1})
    assert config_digest({"a": 1, "b": 2}) != config_digest({"a": 1, "b": 3})
