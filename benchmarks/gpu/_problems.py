"""Bilevel problems of any size, made on the card, at a theta near their minimum, with the exact
hypergradient there.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import _peers_problems as problems
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _peers_problems import Problem
from _peers_reference import Reference, conjugate_gradients

from ._card import distances
from ._task import Sizes

ERROR = 1e-3
"""Of the hypergradient, that all are asked for."""

SOLVED = 1e-8
"""The residual in float64 at which the adjoint is exact enough to judge by."""

Made = Callable[[], Problem]


def small(sizes: Sizes) -> Iterator[Made]:
    """One of each kind."""
    size, rows = sizes.small
    yield partial(ridge, size, rows)
    yield partial(logistic, size, rows, sizes.fitted)
    yield lambda: held(problems.small_network(1, rows), 0.15, sizes.fitted)
    yield lambda: held(problems.small_convnet(1, rows // 5), 0.1, sizes.fitted)


def large(sizes: Sizes) -> Iterator[Made]:
    """Such as fill a card; what matters most first."""
    yield partial(ridge, *sizes.linear[0])
    wider, rows = sizes.wider, sizes.rows
    yield lambda: held(problems.small_network(wider, 5 * rows), 0.15, sizes.fitted)
    yield lambda: held(problems.small_convnet(wider, rows), sizes.held, sizes.fitted)
    for size, rows in sizes.linear:
        yield partial(logistic, size, rows, sizes.fitted)
    for size, rows in sizes.linear[1:]:
        yield partial(ridge, size, rows)


def normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def ridge(size: int, rows: int) -> Problem:
    """`problems.ridge` with data made on the card, and its solution in the form of kernels."""
    scales = jnp.arange(1, size + 1) ** -0.5
    truth = normal(0, size)
    x, x_val = normal(1, rows, size) * scales, normal(2, rows, size) * scales
    y, y_val = x @ truth + normal(3, rows), x_val @ truth + normal(4, rows)
    psi = jax.random.uniform(jax.random.key(5), (size,), minval=-5, maxval=-3)
    with jax.default_matmul_precision("highest"):
        shrunk = x * jnp.exp(-psi)
        theta = jnp.linalg.solve(shrunk @ x.T + rows * jnp.eye(rows), y) @ shrunk
    return Problem(
        f"ridge, {size:,}", problems.ridge_inner, problems.ridge_outer, (theta,), psi, (x, y),
        (x_val, y_val),
    )  # fmt: skip


def logistic(size: int, rows: int, steps: int) -> Problem:
    """`problems.logistic` with data made on the card, after some descent: it is convex, so the
    adjoint is defined anywhere.
    """
    features = size // 10
    scales = jnp.arange(1, features + 1) ** -0.5
    truth = 2 * normal(0, features, 10)
    x, x_val = normal(1, rows, features) * scales, normal(2, rows, features) * scales

    def labels(x, seed):
        gumbel = jax.random.gumbel(jax.random.key(seed), (rows, 10))
        return jax.nn.one_hot(jnp.argmax(x @ truth + gumbel, 1), 10)

    psi = jax.random.uniform(jax.random.key(5), (features,), minval=-7, maxval=-5)
    start = (jnp.zeros((features, 10)),)
    problem = Problem(
        f"logistic, {size:,}", problems.logistic_inner, problems.linear_outer, start, psi,
        (x, labels(x, 3)), (x_val, labels(x_val, 4)),
    )  # fmt: skip
    return descended(problem, steps, 1e-2)


def held(problem: Problem, strength: float, steps: int) -> Problem:
    """A network's problem, held near where it begins by a square (as in iMAML) that is stronger
    than its loss is bent down: without it a network of some size comes near no strict minimum in
    any time that there is.
    """

    def inner(ops, theta, psi, x, y, *start):
        apart = sum(((leaf - at) ** 2).sum() for leaf, at in zip(theta, start, strict=True))
        return problem.inner(ops, theta, psi, x, y) + strength / 2 * apart

    near = replace(problem, inner=inner, train=(*problem.train, *problem.theta))
    return descended(near, steps, 1e-2)


def descended(problem: Problem, steps: int, rate: float) -> Problem:
    """The problem with theta after steps of Adam in float32, its rate falling to nothing."""
    optimiser = optax.adam(optax.cosine_decay_schedule(rate, steps))
    theta, psi, train, _ = problems.arrays(problem, np.float32)

    @jax.jit
    def fit(theta, psi, train):
        def step(_, carry):
            theta, state = carry
            gradient = jax.grad(lambda t: problem.inner(problems.JAX, t, psi, *train))(theta)
            updates, state = optimiser.update(gradient, state)
            return optax.apply_updates(theta, updates), state

        return jax.lax.fori_loop(0, steps, step, (theta, optimiser.init(theta)))[0]

    return replace(problem, theta=fit(theta, psi, train))


def solved(problem: Problem) -> tuple[Problem, Reference]:
    """The exact hypergradient at theta, and the steps that bring conjugate gradients so near."""
    residuals, grads = [], []
    with jax.enable_x64(True):
        for residual, grad, _ in conjugate_gradients(problem):
            residuals.append(residual)
            grads.append(grad.astype(jnp.float32))  # in float64 they would fill the memory
            if residual < SOLVED:
                break
    exact = grads[-1]
    errors = [distances(grad, exact) for grad in grads]
    steps = 2 + max((i for i, error in enumerate(errors) if error > ERROR), default=-1)
    rtol = 1.001 * residuals[min(steps, len(residuals)) - 1]
    return problem, Reference(np.asarray(exact), steps, rtol, np.nan)
