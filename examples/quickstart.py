"""Tune one ridge penalty per feature, by the gradient of the validation error.

python examples/quickstart.py
"""

import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_diabetes

from bilevel import hypergradient
from bilevel.solvers import Newton

data = np.column_stack([*map(np.asarray, load_diabetes(return_X_y=True))])
data = jnp.asarray((data - data.mean(0)) / data.std(0), jnp.float32)
x, y = data[:, :-1], data[:, -1]
train, validation = slice(0, 60), slice(60, None)


def inner(weights, log_penalty):  # the training loss
    error = x[train] @ weights - y[train]
    return jnp.mean(error**2) + jnp.sum(jnp.exp(log_penalty) * weights**2)


def outer(weights, log_penalty):  # the validation error of the trained weights
    return jnp.mean((x[validation] @ weights - y[validation]) ** 2)


def main(steps=60):
    compute = hypergradient(outer, inner, solver=Newton())
    log_penalty, weights = jnp.full(10, -5.0), jnp.zeros(10)
    optimiser = optax.adam(0.2)
    state = optimiser.init(log_penalty)
    before = h = compute(log_penalty, weights)
    for _ in range(steps):
        updates, state = optimiser.update(h.grad, state)
        log_penalty = optax.apply_updates(log_penalty, updates)
        h = compute(log_penalty, weights)
    print(f"validation error: {before.value:.3f} before, {h.value:.3f} after {steps} steps")
    print(f"relative residual of the last adjoint: {h.adjoint.residual:.0e}")
    return before, h


if __name__ == "__main__":
    main()
