"""Learning rates for Adam in the inner problem and in the adjoint, found and kept by watching."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from bilevel import hessian
from bilevel.inverse_hvp import SGD
from bilevel.solvers import GradientDescent

from .._problem import AbstractImplicit, AbstractMethod, Adam, Batch, Coreset, Rates, adam
from ..networks import AbstractNetwork

FIRST_RATE = 1e-6
RAISE, BACK_OFF = 1.2, 0.7


def tune_rates(method: AbstractMethod, coreset: Coreset, batch: Batch) -> Rates:
    """The highest rates at which both losses still fall at every step, times 0.7.

    The rate is raised by 1.2 until the loss is no longer monotone (RCIG, appendix C).
    """
    assert isinstance(method, AbstractImplicit) and isinstance(method.solver, Adam)
    network, steps = batch.network, method.solver.steps
    inner = _Inner(method, coreset, network)
    theta0 = method.start(network)

    def inner_falls(rate):
        _, record = GradientDescent(adam, steps, scale=rate)(inner, theta0)
        return _falls(record.losses)

    inner_rate = _highest(inner_falls)
    theta, _ = GradientDescent(adam, steps, scale=inner_rate)(inner, theta0)
    g = _outer_gradient(method, theta, coreset, network, batch.images, batch.targets)
    hvp = hessian(inner, theta)

    def adjoint_falls(rate):
        return _falls(SGD(adam, steps, scale=rate)(hvp, g).losses)

    return Rates(jnp.asarray(inner_rate), jnp.asarray(_highest(adjoint_falls)))


class _Inner(eqx.Module):
    method: AbstractImplicit
    coreset: Coreset
    network: AbstractNetwork

    def __call__(self, theta):
        return self.method.inner(theta, self.coreset, self.network)


@eqx.filter_jit
def _outer_gradient(method, theta, coreset, network, images, targets):
    return jax.grad(lambda t: method.outer(t, coreset, network, images, targets)[0])(theta)


def _falls(losses: jax.Array | None) -> bool:
    values = np.asarray(losses)
    return bool(np.all(np.isfinite(values)) and np.all(np.diff(values) <= 0))


def _highest(falls) -> float:
    rate = FIRST_RATE
    while rate < 1e6 and falls(rate * RAISE**8):
        rate *= RAISE**8
    while rate < 1e6 and falls(rate * RAISE):
        rate *= RAISE
    return rate * BACK_OFF


def watch_rate(
    rate: float, descended: Bool[np.ndarray, " runs"], monotone: Bool[np.ndarray, " runs"]
) -> float:
    """The rate after a look at the last runs: times 0.9 if at least 29 % of them ended higher than
    they began, times 1.05 if at least 70 % fell at every step (the authors' released settings).
    """
    if np.mean(np.logical_not(descended)) >= 0.29:
        return rate * 0.9
    if np.mean(monotone) >= 0.7:
        return rate * 1.05
    return rate
