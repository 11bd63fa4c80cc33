"""A Nash equilibrium, and how it moves: a regression whose subjects change their features.

    python examples/nash_equilibrium.py

A learner fits weights to features, knowing that each subject shifts the features, at a cost, so as
to be predicted a higher value. Neither can do better while the other stays: the gradient of each
player's own loss in its own choice is zero. That is the root of two gradients of different losses,
whose Jacobian is not symmetric. The hypergradient tells how the error on held-out subjects, who
shift likewise, changes with the learner's penalty and the price of shifting. scikit-learn's
diabetes data.
"""

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_diabetes

from bilevel import hypergradient
from bilevel.inverse_hvp import Dense
from bilevel.problems import Root
from bilevel.solvers import Newton

data = np.column_stack([*map(np.asarray, load_diabetes(return_X_y=True))])
data = jnp.asarray((data - data.mean(0)) / data.std(0), jnp.float32)
x, y = data[:, :-1], data[:, -1]
train, rest = slice(0, 200), slice(200, None)


def learner(weights, shift, psi):
    error = (x[train] + shift[None]) @ weights - y[train]
    return jnp.mean(error**2) + jnp.exp(psi["penalty"]) * jnp.sum(weights**2)


def subjects(weights, shift, psi):
    cost = jnp.exp(psi["price"]) * jnp.sum(shift**2) / 2
    return cost - jnp.mean((x[train] + shift[None]) @ weights)


def best_responses(theta, psi):
    """Each player's gradient in its own choice."""
    return {
        "weights": jax.grad(learner, 0)(theta["weights"], theta["shift"], psi),
        "shift": jax.grad(subjects, 1)(theta["weights"], theta["shift"], psi),
    }


def outer(theta, psi):
    return jnp.mean(((x[rest] + theta["shift"][None]) @ theta["weights"] - y[rest]) ** 2)


def main(steps=20, rate=2.0):
    compute = hypergradient(
        outer, Root(best_responses), solver=Newton(Dense(), steps=4), inverse_hvp=Dense()
    )
    psi = {"penalty": jnp.asarray(-3.0), "price": jnp.asarray(0.0)}
    theta = {"weights": jnp.zeros(10), "shift": jnp.zeros(10)}
    first = h = compute(psi, theta)
    for _ in range(steps):
        psi = jax.tree.map(lambda p, g: p - rate * g, psi, h.grad)
        h = compute(psi, h.theta)
    print(f"error of held-out subjects: {first.value:.4f} before, {h.value:.4f} after")
    for name in psi:
        print(f"log {name}: {float(psi[name]):+.2f}, derivative {float(h.grad[name]):+.1e}")
    print(f"gradients of both players at the equilibrium: {float(h.inner.gradient_norm):.0e}")
    return first, h


if __name__ == "__main__":
    main()
