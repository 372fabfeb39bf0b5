import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ipg_jax.training.optimizer import make_optimizer, make_schedule, parameter_paths


def constant(value: float):
    return make_schedule(value, kind="step", num_steps=100)


def test_the_papers_schedule():
    # 0.01, warm-up of 500 steps from 1/3, x0.1 at epochs 7 and 11 (here of 1000 steps)
    schedule = make_schedule(
        0.01, kind="step", num_steps=12000, milestones=[7000, 11000], warmup_steps=500
    )
    steps = [0, 250, 500, 6999, 7000, 10999, 11000, 11999]
    want = [0.01 / 3, 0.01 * 2 / 3, 0.01, 0.01, 0.001, 0.001, 1e-4, 1e-4]
    np.testing.assert_allclose([schedule(step) for step in steps], want, rtol=1e-5)


def test_cosine_goes_to_zero():
    schedule = make_schedule(2.0, kind="cosine", num_steps=10)
    np.testing.assert_allclose([schedule(s) for s in (0, 5, 10)], [2.0, 1.0, 0.0], atol=1e-6)


def test_schedule_kind_is_checked():
    with pytest.raises(Exception, match=r"config\.optimizer\.schedule is one of step, cosine"):
        make_schedule(1.0, kind="linear", num_steps=10)


def run(optimizer, params, gradients):
    state = optimizer.init(params)
    for gradient in gradients:
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_sgd_is_torchs():
    # torch.optim.SGD: g += decay * p; buffer = momentum * buffer + g; p -= lr * buffer
    optimizer = make_optimizer(constant(0.1), name="sgd", weight_decay=0.01, momentum=0.9)
    rng = np.random.default_rng(0)
    start = rng.normal(size=5)
    gradients = rng.normal(size=(4, 5))
    p, buffer = start.copy(), np.zeros(5)
    for g in gradients:
        buffer = 0.9 * buffer + g + 0.01 * p
        p -= 0.1 * buffer
    got = run(
        optimizer,
        {"w": jnp.asarray(start, jnp.float32)},
        [{"w": jnp.asarray(g, jnp.float32)} for g in gradients],
    )
    np.testing.assert_allclose(got["w"], p, rtol=1e-5)


def nested(value: float):
    return {"layer": {"kernel": jnp.float32(value), "bias": jnp.float32(value)}}


def test_paths_have_slashes():
    assert parameter_paths(nested(1.0)) == {
        "layer": {"kernel": "layer/kernel", "bias": "layer/bias"}
    }


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_decay_spares_what_is_named(name: str):
    optimizer = make_optimizer(constant(0.1), name=name, weight_decay=0.5, no_decay=".*/bias")
    got = run(optimizer, nested(1.0), [nested(0.0)])
    assert got["layer"]["bias"] == 1.0
    np.testing.assert_allclose(got["layer"]["kernel"], 0.95, rtol=1e-6)


def test_frozen_parameters_do_not_move_even_by_decay():
    optimizer = make_optimizer(constant(0.1), name="sgd", weight_decay=0.5, frozen="layer/bias")
    got = run(optimizer, nested(1.0), [nested(3.0)] * 2)
    assert got["layer"]["bias"] == 1.0
    assert got["layer"]["kernel"] < 1.0


def test_a_pattern_that_freezes_nothing_is_an_error():
    optimizer = make_optimizer(constant(0.1), name="sgd", weight_decay=0.0, frozen="backbone/.*")
    message = r"config\.optimizer\.frozen='backbone/\.\*' matches no parameter: .* layer/bias"
    with pytest.raises(ValueError, match=message):
        optimizer.init(nested(1.0))


def test_clipping_is_by_the_global_norm():
    optimizer = make_optimizer(constant(1.0), name="sgd", weight_decay=0.0, clip_norm=1.0)
    got = run(
        optimizer,
        {"a": jnp.float32(0), "b": jnp.float32(0)},
        [{"a": jnp.float32(3), "b": jnp.float32(4)}],
    )
    np.testing.assert_allclose([got["a"], got["b"]], [-0.6, -0.8], rtol=1e-6)


def test_name_is_checked():
    with pytest.raises(Exception, match=r"config\.optimizer\.name is one of sgd, adamw"):
        make_optimizer(constant(0.1), name="lion", weight_decay=0.0)
