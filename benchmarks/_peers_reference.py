"""The judge: theta* and the exact hypergradient, in float64, by none of the contestants."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from _peers_problems import JAX, Problem, arrays
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

MAX_STEPS = 2000
KICKS = 5


@dataclass(frozen=True)
class Reference:
    """The exact hypergradient, and the steps and residual which bring CG within the error."""

    grad: np.ndarray
    steps: int
    rtol: float
    curvature: float  # a bound from above on that of the inner loss


def solve_exactly(problem: Problem, error: float) -> tuple[Problem, Reference]:
    with jax.enable_x64(True):
        problem, iterates = _minimum(problem)
    exact = iterates[-1][1]
    errors = [np.linalg.norm(grad - exact) / np.linalg.norm(exact) for _, grad, _ in iterates]
    # The first step after which no error is above it.
    steps = 2 + max((i for i, each in enumerate(errors) if each > error), default=-1)
    residual = iterates[min(steps, len(iterates)) - 1][0]
    curvature = 1.1 * max(rayleigh for _, _, rayleigh in iterates)
    return problem, Reference(exact, steps, 1.001 * residual, curvature)


def _minimum(problem):
    """The problem at a strict minimum, and the iterates there: from a saddle point, at which a
    network's dead units can hold a gradient of zero, a kick leads on.
    """
    for seed in range(KICKS):
        problem = replace(problem, theta=_minimise(problem))
        try:
            return problem, [
                (r, np.asarray(grad), b) for r, grad, b in conjugate_gradients(problem)
            ]
        except Saddle as saddle:
            reason = saddle
        rng = np.random.default_rng(seed)
        kicked = (leaf + 1e-2 * rng.normal(size=leaf.shape) for leaf in problem.theta)
        problem = replace(problem, theta=tuple(kicked))
    raise reason


class Saddle(RuntimeError):
    """theta* has a direction of no positive curvature."""


def _minimise(problem):
    start, unravel = ravel_pytree(arrays(problem, np.float64)[0])
    _, psi, train, _ = arrays(problem, np.float64)

    def loss(flat, psi, train):
        return problem.inner(JAX, unravel(flat), psi, *train)

    @jax.jit
    def product(flat, v, psi, train):
        return jax.jvp(lambda f: jax.grad(loss)(f, psi, train), (flat,), (v,))[1]

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    function = lambda f: jax.tree.map(np.asarray, value_and_grad(f, psi, train))  # noqa: E731
    near = minimize(
        function,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 6000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-7},
    )
    found = minimize(
        function,
        near.x,
        jac=True,
        hessp=lambda f, v: np.asarray(product(f, v, psi, train)),
        method="trust-ncg",
        options={"gtol": 1e-8, "maxiter": 300},
    )
    print(f"  theta*: {found.nit} steps, gradient {np.linalg.norm(found.jac):.1e}", flush=True)
    return tuple(np.asarray(leaf) for leaf in unravel(jnp.asarray(found.x)))


def conjugate_gradients(problem: Problem):
    """(residual, hypergradient, curvature along the residual) of each step, until 1e-12; to be
    called with 64-bit numbers.
    """
    theta, psi, train, validation = arrays(problem, np.float64)
    g = jax.jit(jax.grad(lambda t, *given: problem.outer(JAX, t, *given)))(theta, *validation)
    flat, unravel = ravel_pytree(g)

    @jax.jit
    def gradient(theta, psi, train):
        return jax.grad(lambda t: problem.inner(JAX, t, psi, *train))(theta)

    @jax.jit
    def step(state, theta, psi, train):
        v, r, p = state
        hp = ravel_pytree(
            jax.jvp(lambda t: gradient(t, psi, train), (theta,), (unravel(p),))[1]
        )[0]  # fmt: skip
        length = (r @ r) / (p @ hp)
        v, after = v + length * p, r - length * hp
        _, pull = jax.vjp(lambda psi: gradient(theta, psi, train), psi)
        ratio = (after @ after) / (r @ r)
        # The diagonal of Lanczos' matrix grows with the largest eigenvalue, from below.
        return (v, after, after + ratio * p), p @ hp, -pull(unravel(v))[0], 1 / length * (1 + ratio)

    state = (jnp.zeros_like(flat), flat, flat)
    for _ in range(MAX_STEPS):
        state, curvature, grad, bound = step(state, theta, psi, train)
        if not curvature > 0:
            raise Saddle(f"{problem.name}: theta* is not a strict minimum")
        residual = float(jnp.linalg.norm(state[1]) / jnp.linalg.norm(flat))
        yield residual, grad, float(bound)
        if residual < 1e-12:
            return
