"""One penalty for each feature.

A ridge regression has twenty features, of which five matter. The gradient of the held-out error
with respect to all twenty penalties finds out which.
"""

import jax
import jax.numpy as jnp
from _figure import BLUE, RED, axes, save

from bilevel import minimize

x, noise = jax.random.normal(jax.random.key(0), (2, 200, 20))
y = x[:, :5].sum(1) + noise[:, 0]
train, held = slice(0, 60), slice(60, None)


def inner(theta, psi):
    return jnp.mean((x[train] @ theta - y[train]) ** 2) + jnp.exp(psi) @ theta**2


def outer(theta, psi):
    return jnp.mean((x[held] @ theta - y[held]) ** 2)


found = minimize(outer, inner, jnp.full(20, -3.0), jnp.zeros(20), bounds=(-7.0, 5.0), max_steps=40)
print(found)

figure, (left, right) = axes(2)
left.plot(found.values, color=BLUE)
left.set(xlabel="step of psi", ylabel="held-out error")
right.bar(range(20), jnp.exp(found.psi), color=[RED] * 5 + [BLUE] * 15)
right.set(xlabel="feature (red: those that matter)", ylabel="penalty", yscale="log")
save(figure, __file__)
