"""A deep equilibrium layer beside the same layer unrolled: as accurate, in less memory.

    python examples/deep_equilibrium.py

The hidden state of the network is the fixed point `z = tanh(W z + U x + b)`: a layer of endless
depth (Bai, Kolter and Koltun, 2019). Its derivative is that of the fixed point, for which no step
of the iteration is kept. The unrolled network takes a fixed number of the same steps and
backpropagates through all. Both read scikit-learn's digits; the memory is what XLA sets aside for
one gradient, beside its arguments.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from sklearn.datasets import load_digits

from bilevel import fixed_point
from bilevel.inverse_hvp import Neumann
from bilevel.solvers import Anderson

x, y = map(np.asarray, load_digits(return_X_y=True))
x, y = x.astype(np.float32) / 16, y.astype(np.int32)
TRAIN, CONTRACTION = 1200, 0.8


def layer(z, weights, x):
    # Rows of W whose absolute values sum to less than 1 make a contraction.
    rows = jnp.sum(jnp.abs(weights["W"]), axis=1, keepdims=True)
    contracting = weights["W"] * jnp.minimum(1, CONTRACTION / rows)
    return jnp.tanh(z @ contracting.T + x @ weights["U"] + weights["b"])


equilibrium = fixed_point(
    layer,
    solver=Anderson(tol=1e-3, max_steps=50),
    inverse_hvp=Neumann(steps=50, step_size=1.0, rtol=1e-3),
)


def unrolled(weights, z, x, depth=30):
    return lax.scan(lambda z, _: (layer(z, weights, x), None), z, length=depth)[0]


def make_network(hidden):
    def logits(weights, x):
        z = hidden(weights, jnp.zeros((len(x), weights["W"].shape[0])), x)
        return z @ weights["V"]

    def loss(weights, x, y):
        scores = logits(weights, x)
        return optax.softmax_cross_entropy_with_integer_labels(scores, y).mean()

    return logits, jax.value_and_grad(loss)


def train(hidden, steps, width, batch=256):
    """Test error in %, the memory of a gradient in bytes, and seconds."""
    keys = jax.random.split(jax.random.key(0), 3)
    weights = {
        "W": jax.random.normal(keys[0], (width, width)) / width,
        "U": jax.random.normal(keys[1], (64, width)) / 8,
        "V": jax.random.normal(keys[2], (width, 10)) / width**0.5,
        "b": jnp.zeros(width),
    }
    logits, value_and_grad = make_network(hidden)
    optimiser = optax.adam(3e-3)
    state = optimiser.init(weights)
    rng = np.random.default_rng(0)
    gradient = jax.jit(value_and_grad).lower(weights, x[:batch], y[:batch]).compile()
    analysis: Any = gradient.memory_analysis()
    memory = analysis.temp_size_in_bytes
    start = time.perf_counter()
    for _ in range(steps):
        rows = rng.choice(TRAIN, batch, replace=False)
        _, grad = gradient(weights, x[rows], y[rows])
        updates, state = optimiser.update(grad, state)
        weights = optax.apply_updates(weights, updates)
    seconds = time.perf_counter() - start
    wrong = jnp.argmax(jax.jit(logits)(weights, x[TRAIN:]), axis=1) != y[TRAIN:]
    return 100 * float(jnp.mean(wrong)), memory, seconds


def main(steps=200, width=64):
    print(f"digits: {TRAIN} training images, {len(x) - TRAIN} test images, {steps} steps")
    results = {}
    for name, hidden in (("equilibrium", equilibrium), ("30 steps unrolled", unrolled)):
        results[name] = error, memory, seconds = train(hidden, steps, width)
        print(f"{name:18} error {error:4.1f} %   memory {memory / 2**20:6.2f} MiB", end="")
        print(f"   {1e3 * seconds / steps:5.1f} ms a step")
    return results


if __name__ == "__main__":
    main()
