"""Adam's rates: the highest at which the losses still fall, and how they are watched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel.inverse_hvp import SGD
from bilevel.solvers import GradientDescent
from bilevel_distillation import RunConfig, resolve
from bilevel_distillation._engine._pool import take
from bilevel_distillation._engine._rates import BACK_OFF, RAISE, tune_rates, watch_rate
from bilevel_distillation._engine._recipe import first_state, make_recipe
from bilevel_distillation._problem import adam
from bilevel_distillation.engine import Batch, Training

SHAPE, CLASSES, STEPS = (4, 4, 1), 2, 5


@pytest.fixture(scope="module")
def problem():
    config = RunConfig(width=3, depth=1, adam_steps=STEPS, pool_size=1, solve="adam", batch_size=8)
    config = resolve(config, SHAPE, CLASSES)
    training = Training(
        jax.random.normal(jax.random.key(0), (8, *SHAPE)), jnp.arange(8, dtype=jnp.int32) % 2, 2
    )
    recipe = make_recipe(config, SHAPE, CLASSES, 8)
    state = first_state(recipe, config, training.images[:2], np.arange(2), CLASSES)
    network = take(state.pool, jnp.asarray(0)).network
    return recipe, state.coreset, network, training.images, jnp.eye(2)[training.labels]


def falls(losses):
    assert len(losses) >= STEPS
    return bool(np.all(np.diff(np.asarray(losses)) <= 0))


def test_the_next_higher_rates_are_too_high(problem):
    recipe, coreset, network, images, targets = problem
    method = recipe.method
    rates = tune_rates(method, coreset, Batch(images, targets, network))
    theta0 = method.start(network)

    def inner(theta):
        return method.inner(theta, coreset, network)

    def inner_losses(rate):
        return GradientDescent(adam, STEPS, scale=rate)(inner, theta0)[1].losses

    theta, _ = GradientDescent(adam, STEPS, scale=rates.inner)(inner, theta0)
    g = jax.grad(lambda t: method.outer(t, coreset, network, images, targets)[0])(theta)
    gradient = jax.grad(inner)

    @jax.jit
    def hvp(v):
        return jax.jvp(gradient, (theta,), (v,))[1]

    def adjoint_losses(rate):
        return SGD(adam, STEPS, scale=rate)(hvp, g).losses

    for rate, losses in ((rates.inner, inner_losses), (rates.adjoint, adjoint_losses)):
        highest = float(rate) / BACK_OFF
        assert falls(losses(rate)) and falls(losses(highest * 0.999))
        assert not falls(losses(highest * RAISE * 1.001))
    assert 1e-5 < float(rates.inner) < 1 < float(rates.adjoint) < 1e5


@pytest.mark.parametrize(
    ("rose", "monotone", "factor"),
    [(29, 0, 0.9), (28, 0, 1.0), (28, 70, 1.05), (29, 70, 0.9), (0, 69, 1.0), (0, 100, 1.05)],
)
def test_watched_rates(rose, monotone, factor):
    runs = np.arange(100)
    found = watch_rate(2.0, descended=runs >= rose, monotone=runs < monotone)
    assert found == pytest.approx(2.0 * factor)
