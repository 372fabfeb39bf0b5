"""The training step takes any loss function, and casts its kernels once."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ipg_jax.training.sharding import make_mesh
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Policy, make_train_step

WEIGHTS = {"layer": {"kernel": np.float32([[1.0], [2.0]]), "bias": np.float32([0.5])}}


def linear_loss(seen: list):
    """Mean of `(x w + b)^2`, used twice, as a kernel that two levels share."""

    def loss(variables, batch, *, rng):
        del rng
        layer = variables["params"]["layer"]
        seen.append(jax.tree.map(lambda x: x.dtype, layer))
        x = batch["x"].astype(layer["kernel"].dtype)
        outputs = [(x @ layer["kernel"]).astype(jnp.float32) + layer["bias"] for _ in range(2)]
        value = sum(jnp.mean(y**2) for y in outputs) / 2
        return value, ({"loss": value}, {})

    return loss


def first_step(policy: Policy | None, devices: int = 1):
    optimizer = optax.sgd(0.1)
    mesh = make_mesh(devices=jax.devices()[:devices])
    seen: list = []
    step = make_train_step(linear_loss(seen), optimizer, mesh, policy=policy)
    variables = {"params": jax.tree.map(jnp.asarray, WEIGHTS), "batch_stats": {}}
    state = TrainState.create(variables, optimizer, ema=False)
    batch = {"x": np.float32([[1, 0], [0, 1], [1, 1], [2, 1]])}
    state, metrics = step(state, batch, jax.random.key(0))
    return state, metrics, seen


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("policy", [None, Policy(jnp.bfloat16)])
def test_a_step_by_hand(policy, devices: int):
    state, metrics, seen = first_step(policy, devices)
    # Outputs are 1.5, 2.5, 3.5 and 4.5: the mean of their squares is 10.25.
    assert float(metrics["loss"]) == 10.25
    assert set(metrics) == {"loss", "grad_norm"}  # there is no schedule to report
    # The gradient is the mean of 2 y x: (1.5 + 3.5 + 9) / 2 and (2.5 + 3.5 + 4.5) / 2, and of the
    # bias 12 / 2.
    want = {"kernel": np.float32([[1 - 0.7], [2 - 0.525]]), "bias": np.float32([0.5 - 0.6])}
    for name, value in state.params["layer"].items():
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, want[name], rtol=1e-2 if policy else 1e-6, atol=1e-6)
    kernel = jnp.bfloat16 if policy else jnp.float32
    assert seen[0] == {"kernel": kernel, "bias": jnp.float32}


def test_a_policy_casts_kernels_alone():
    cast = Policy(jnp.bfloat16).cast(jax.tree.map(jnp.asarray, WEIGHTS))
    assert cast["layer"]["kernel"].dtype == jnp.bfloat16
    assert cast["layer"]["bias"].dtype == jnp.float32
    gradient = jax.grad(
        lambda p: Policy(jnp.bfloat16).cast(p)["layer"]["kernel"].sum().astype(float)
    )
    gradient = gradient(jax.tree.map(jnp.asarray, WEIGHTS))
    assert gradient["layer"]["kernel"].dtype == jnp.float32


def test_micro_batches_weigh_as_many_images_as_count_in_them():
    """The mean over three of four rows, of which the micro-batches have two and one."""

    def loss(variables, batch, *, rng):
        del rng
        outputs = variables["params"]["scale"] * batch["x"]
        value = (outputs * batch["weight"]).sum() / jnp.maximum(batch["weight"].sum(), 1.0)
        return value, ({"loss": value}, {})

    def step(parts: int, weight: list[float]):
        optimizer = optax.sgd(1.0)
        step = make_train_step(
            loss,
            optimizer,
            make_mesh(devices=jax.devices()[:1]),
            accumulation=parts,
            num_images=lambda batch: batch["weight"].sum(),
        )
        variables = {"params": {"scale": jnp.float32(2)}, "batch_stats": {}}
        state = TrainState.create(variables, optimizer, ema=False)
        batch = {"x": np.float32([1, 50, 4, 7]), "weight": np.float32(weight)}
        state, metrics = step(state, batch, jax.random.key(0))
        return float(metrics["loss"]), float(state.params["scale"])

    assert step(1, [1, 0, 1, 1]) == step(2, [1, 0, 1, 1]) == (8.0, -2.0)
    assert step(2, [1, 0, 1, 0]) == (5.0, -0.5)  # a micro-batch of nothing
    assert step(2, [0, 0, 0, 0]) == (0.0, 2.0)


def test_the_average_is_of_all_that_is_evaluated():
    def loss(variables, batch, *, rng):
        del rng
        value = variables["params"]["scale"] * batch["x"].mean()
        stats = variables["batch_stats"] | {"mean": batch["x"].mean()}
        return value, ({"loss": value}, stats)

    optimizer = optax.sgd(1.0)
    step = make_train_step(loss, optimizer, make_mesh(devices=jax.devices()[:1]), ema_decay=0.75)
    frozen = float(np.float32(0.1))
    variables = {
        "params": {"scale": jnp.float32(2)},
        "batch_stats": {"mean": jnp.float32(0), "frozen": jnp.float32(frozen)},
    }
    state = TrainState.create(variables, optimizer, ema=True)
    for _ in range(2):
        state, _ = step(state, {"x": np.float32([3, 5])}, jax.random.key(0))
    # The decays of these steps are 1 / 10 and 2 / 11. The parameter goes 2, -2, -6, and its average
    # 2, -1.6, -5.2; the mean 0, 4, 4, and its average 0, 3.6, 43.2 / 11.
    assert state.variables["params"] == {"scale": -6}
    average = jax.tree.map(float, state.eval_variables)
    assert average["params"] == {"scale": pytest.approx(-5.2)}
    assert average["batch_stats"] == {"mean": pytest.approx(43.2 / 11), "frozen": frozen}


def test_an_average_needs_its_decay():
    mesh = make_mesh(devices=jax.devices()[:1])
    step = make_train_step(linear_loss([]), optax.sgd(0.1), mesh)
    variables = {"params": jax.tree.map(jnp.asarray, WEIGHTS), "batch_stats": {}}
    state = TrainState.create(variables, optax.sgd(0.1), ema=True)
    with pytest.raises(ValueError, match="pass ema_decay="):
        step(state, {"x": np.ones((4, 2), np.float32)}, jax.random.key(0))
