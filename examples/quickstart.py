"""Tune one ridge penalty per feature, by the gradient of the validation error.

python examples/quickstart.py
"""

import jax.numpy as jnp
import optax
from sklearn.datasets import load_diabetes

from bilevel import hypergradient
from bilevel.solvers import Newton

features, target = load_diabetes(return_X_y=True)
x = jnp.asarray((features - features.mean(0)) / features.std(0), jnp.float32)
y = jnp.asarray((target - target.mean()) / target.std(), jnp.float32)
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
    state, errors = optimiser.init(log_penalty), []
    for _ in range(steps):
        h = compute(log_penalty, weights)
        updates, state = optimiser.update(h.grad, state)
        log_penalty, errors = log_penalty + updates, [*errors, float(h.value)]
    print(f"validation error: {errors[0]:.3f} before, {errors[-1]:.3f} after {steps} steps")
    print(f"relative residual of the last adjoint: {float(h.adjoint.residual):.0e}")
    return errors, h


if __name__ == "__main__":
    main()
