import contextlib
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_files import small_files_only

from ipg_jax.training.checkpoint import Checkpoints, config_digest, load_variables
from ipg_jax.training.sharding import make_mesh, replicated
from ipg_jax.training.state import TrainState
from ipg_jax.training.trained import load_initial


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
        checkpoints.save(step, make_state(float(step)))
        checkpoints.record(step, {"AP": ap, "AP50": 0.9})
    checkpoints.save(6, make_state(6.0))
    assert checkpoints.best == 2
    assert checkpoints.latest == 6
    checkpoints.close()
    assert steps_on_disk(tmp_path) == [2, 5, 6]
    again = Checkpoints(tmp_path, read_only=True)
    assert again.best == 2
    assert [step for step in again.steps if again.evaluated(step)] == [2, 5]


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
    checkpoints.save(1, state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema)))
    checkpoints.record(1, {"AP": 0.5})
    checkpoints.save(2, make_state(7.0, ema=True))
    checkpoints.record(2, {"AP": 0.1})
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


def flip_a_bit(checkpoint: pathlib.Path) -> None:
    """In the middle of the largest file, which holds the values."""
    files = [path for path in (checkpoint / "default").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


@pytest.fixture
def three(tmp_path):
    """The folder of three checkpoints."""
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(float(step)))
    return tmp_path / "checkpoints"


def kernel(state: TrainState) -> float:
    return float(state.params["layer"]["kernel"][0, 0])


def test_a_run_goes_on_from_the_newest_whole_checkpoint(three, caplog):
    flip_a_bit(three / "2")
    (three / "3" / "default" / "_METADATA").write_text('{"tree_meta')
    (three / "999").mkdir()
    with contextlib.closing(Checkpoints(three)) as checkpoints:
        assert checkpoints.steps == [1]
        assert kernel(checkpoints.restore(make_state(0.0))) == 1.0
        checkpoints.save(2, make_state(5.0))
    assert caplog.text.count("IS DAMAGED") == 3
    assert "from the next older one, 1." in caplog.text
    assert steps_on_disk(three.parent / "damaged") == [2, 3, 999]
    assert kernel(Checkpoints(three, read_only=True).restore(make_state(0.0))) == 5.0


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(three):
    flip_a_bit(three / "2")
    checkpoints = Checkpoints(three, read_only=True)
    assert kernel(checkpoints.restore(make_state(0.0))) == 3.0
    with pytest.raises(ValueError, match=r"checkpoint 2 is damaged: .*/2/default/.*SHA-256"):
        checkpoints.restore(make_state(0.0), 2)
    with pytest.raises(ValueError, match=r"/2 is damaged: .*SHA-256"):
        load_variables(three / "2")
    assert steps_on_disk(three) == [1, 2, 3]


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(three):
    for step in "123":
        flip_a_bit(three / step)
    with pytest.raises(ValueError, match=r"all checkpoints in .* are damaged:\n.*3: .*\n.*2: "):
        Checkpoints(three)
    assert steps_on_disk(three) == [1, 2, 3]


def test_checksums_can_be_switched_off(three, tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "b", verify=False)) as checkpoints:
        checkpoints.save(1, make_state(1.0))
    assert list((tmp_path / "b").rglob("checksums.json")) == []
    assert kernel(Checkpoints(tmp_path / "b", read_only=True).restore(make_state(0.0))) == 1.0
    metadata = three / "3" / "default" / "_METADATA"
    metadata.write_text(metadata.read_text() + " ")
    with pytest.raises(ValueError, match=r"_METADATA is not as it was written"):
        Checkpoints(three, read_only=True).restore(make_state(0.0))
    assert kernel(Checkpoints(three, read_only=True, verify=False).restore(make_state(0.0))) == 3.0


def test_a_damaged_score_is_left_out(three, caplog):
    with contextlib.closing(Checkpoints(three)) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.record(step, {"AP": step / 8})
    path = three / "3" / "metrics" / "metrics"
    path.write_text(path.read_text().replace("0.375", "0.975"))
    checkpoints = Checkpoints(three, read_only=True)
    assert checkpoints.best == 2
    assert not checkpoints.evaluated(3)
    assert "3/metrics/metrics is not as it was written" in caplog.text
    path.write_text("{")
    assert Checkpoints(three, read_only=True).best == 2


# Orbax leaves the other writes running when one fails, and they find nobody to report to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_is_named_with_what_is_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, make_state(1.0))
    checkpoints.wait()
    large = jax.tree.map(noise, make_state(1.0, width=2**17))

    def save() -> None:
        checkpoints.save(2, large)
        checkpoints.wait()

    message = rf"step 2 could not be written to {tmp_path}(.|\n)*whole are .* \[1\]"
    with small_files_only(2**17), pytest.raises(OSError, match=message):
        save()
    checkpoints.close()
    assert kernel(Checkpoints(tmp_path, read_only=True).restore(make_state(0.0))) == 1.0


def noise(x: jax.Array) -> jax.Array:
    """What does not compress."""
    values = np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)
    return jax.device_put(values, x.sharding)


def test_the_digest_sees_every_value_and_no_order():
    assert config_digest({"a": 1, "b": 2}) == config_digest({"b": 2, "a": 1})
    assert config_digest({"a": 1, "b": 2}) != config_digest({"a": 1, "b": 3})
