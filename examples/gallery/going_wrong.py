"""A hypergradient that goes wrong, and how the record shows it.

The same problem, solved by gradient descent with fewer and fewer steps. The record knows how far
theta is from the solution, without the solution; the error against the exact gradient shows that it
is right about that.
"""

import jax.numpy as jnp
import optax
from _figure import BLUE, RED, axes, save

from bilevel import Result, check_hypergradient, hypergradient
from bilevel.solvers import GradientDescent

curvature = jnp.array([1.0, 5.0, 20.0])


def inner(theta, psi):
    return 0.5 * jnp.sum(curvature * (theta - psi) ** 2)


def outer(theta, psi):
    return jnp.sum(theta**2)


psi, start = jnp.array([1.0, -2.0, 0.5]), jnp.zeros(3)
counts, errors, distances = [1, 3, 10, 30, 100, 300], [], []
for steps in counts:
    solver = GradientDescent(optax.sgd(0.04), steps)
    h = hypergradient(outer, inner, solver=solver, throw="ignore")(psi, start)
    errors.append(float(jnp.linalg.norm(h.grad - 2 * psi) / jnp.linalg.norm(2 * psi)))
    distances.append(float(h.inner.distance))
    said = Result[h.inner.result].partition(":")[0].partition(",")[0]
    print(f"{steps:3d} steps: error {errors[-1]:.0e}, distance {distances[-1]:.0e}. {said}")

check = check_hypergradient(outer, inner, solver=GradientDescent(optax.sgd(0.04), 10))
print()
print(check(psi, start))

figure, ax = axes()
ax.loglog(counts, errors, "o-", color=BLUE, label="error of the gradient")
ax.loglog(counts, distances, "s--", color=RED, label="distance that the record has")
ax.set(xlabel="inner steps")
ax.legend()
save(figure, __file__)
