"""Constraints, and what they cost.

A portfolio weighs return against risk: weights that are not negative and sum to one. Its derivative
with respect to the expected returns goes through the active constraints, and the multipliers are
their prices.
"""

import jax
import jax.numpy as jnp
from _figure import BLUE, RED, axes, save

from bilevel import argmin
from bilevel.problems import Constrained
from bilevel.solvers import InteriorPoint

draws = jax.random.normal(jax.random.key(0), (6, 40))
risk = draws @ draws.T / 40 + 0.1 * jnp.eye(6)


def loss(theta, psi):
    return 0.5 * theta @ risk @ theta - psi @ theta


problem = Constrained(
    loss,
    equality=lambda theta, psi: jnp.sum(theta) - 1,
    inequality=lambda theta, psi: -theta,
)
weights_at = argmin(problem, solver=InteriorPoint(), with_record=True)
returns = jnp.array([0.1, 0.2, 0.3, 0.4, 0.1, 0.0])
course = []
for first in jnp.linspace(-0.5, 1.0, 31):
    weights, record = weights_at(returns.at[0].set(first), jnp.full(6, 1 / 6))
    course.append(weights)
slope = jax.jacrev(lambda psi: weights_at(psi, jnp.full(6, 1 / 6))[0])(returns)
print("weights", weights_at(returns, jnp.full(6, 1 / 6))[0].round(3))
print("what one more per cent on the first does to them", (0.01 * slope[:, 0]).round(4))
print("the price of each bound", record.multipliers.inequality.round(3))

figure, (left, right) = axes(2)
left.plot(jnp.linspace(-0.5, 1.0, 31), jnp.stack(course))
left.set(xlabel="expected return of the first", ylabel="weights")
right.bar(range(6), slope[:, 0], color=[BLUE] + [RED] * 5)
right.set(xlabel="weight", ylabel="its derivative")
save(figure, __file__)
