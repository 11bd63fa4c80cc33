"""Both problems by stochastic steps: a single loop against a solve for each hypergradient.

    python examples/single_loop.py

The problem is that of data_cleaning.py. A single-loop method (SOBA, Dagréou et al., 2022; AmIGO,
Arbel and Mairal, 2022) takes a few stochastic steps on theta, a few on the adjoint v, each from
where the last call left them, and one on psi, all with mini-batches. Fashion-MNIST is read from the
folder that the environment variable BILEVEL_DATA names; where there is none, scikit-learn's digits
are used.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _data import data_folder
from datasets import load_dataset
from sklearn.datasets import load_digits

from bilevel import argmin, hypergradient
from bilevel.inverse_hvp import CG, SGD
from bilevel.solvers import LBFGS, GradientDescent, Newton

BATCH = 100


def load(size):
    """The name of the set, `size` rows of features [size, features + 1], their labels [size]."""
    folder = data_folder("fashion_mnist")
    if folder.is_dir():
        name, split = "Fashion-MNIST", f"train[:{size}]"
        rows = load_dataset(str(folder), split=split).with_format("numpy")[:]
        x = rows["image"].reshape(-1, 14, 2, 14, 2).mean((2, 4)).reshape(-1, 196) / 255
        y = rows["label"]
    else:
        name, (x, y) = "digits", map(np.asarray, load_digits(return_X_y=True))
        x, y = x[:size] / 16, y[:size]
    x = np.column_stack([x, np.ones(len(x))])
    return name, jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.int32)


def losses(theta, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(x @ theta, y)


def training_loss(theta, logits, x, y, decay):
    weighted = jnp.mean(jax.nn.sigmoid(logits) * losses(theta, x, y))
    return weighted + decay / 2 * jnp.sum(theta**2)


def validation_loss(theta, logits, x, y):
    return jnp.mean(losses(theta, x, y))


def draw(key, *arrays):
    """A mini-batch: the same random rows of each."""
    rows = jax.random.choice(key, len(arrays[0]), (BATCH,))
    return tuple(array[rows] for array in arrays)


def batch_training_loss(theta, logits, x, y, decay, *, key):
    logits, x, y = draw(key, logits, x, y)
    return training_loss(theta, logits, x, y, decay)


def double_loop(logits, theta, v, samples, clean, key):
    """Solved and exact; an inexact Newton step is a solve where the weights change so little."""
    compute = hypergradient(validation_loss, training_loss, solver=Newton(CG(rtol=1e-2)))
    return compute(logits, theta, inner_args=samples, outer_args=clean, v0=v)


def single_loop(logits, theta, v, samples, clean, key):
    """One step of stochastic gradient descent on theta, and one on v."""
    inner_key, outer_key = jax.random.split(key)
    compute = hypergradient(
        validation_loss,
        batch_training_loss,
        solver=GradientDescent(optax.sgd(0.1), steps=1),
        inverse_hvp=SGD(optax.sgd(0.1), steps=1),
        throw="ignore",
    )
    batch = draw(outer_key, *clean)
    return compute(logits, theta, inner_args=samples, outer_args=batch, v0=v, key=inner_key)


def optimise(method, optimiser, steps, samples, clean, reports=4):
    """Steps taken, seconds, and the logits, a few times on the way."""

    @eqx.filter_jit
    def update(logits, theta, v, state, samples, clean, key):
        h = method(logits, theta, v, samples, clean, key)
        updates, state = optimiser.update(h.grad, state)
        return optax.apply_updates(logits, updates), h.theta, h.adjoint.v, state

    logits, theta = jnp.zeros(len(samples[1])), jnp.zeros((samples[0].shape[1], 10))
    carry = logits, theta, theta, optimiser.init(logits)
    keys = jax.random.split(jax.random.key(0), steps)
    jax.block_until_ready(update(*carry, samples, clean, keys[0]))  # compiles
    trace, began = [], time.perf_counter()
    for i, key in enumerate(keys, 1):
        carry = update(*carry, samples, clean, key)
        if i % (steps // reports) == 0:
            jax.block_until_ready(carry)
            trace.append((i, time.perf_counter() - began, carry[0]))
    return trace


def error(theta, x, y):
    """In percent."""
    return 100 * float(jnp.mean(jnp.argmax(x @ theta, 1) != y))


def main(train=20_000, validation=2000, test=4000, exact_steps=28, steps=14_000, decay=1e-3):
    name, x, y = load(train + validation + test)
    cuts = len(y) * np.cumsum([train, validation]) // (train + validation + test)
    (x, x_val, x_test), (y, y_val, y_test) = np.split(x, cuts), np.split(y, cuts)
    rng = np.random.default_rng(0)
    corrupted = rng.random(len(y)) < 0.5
    y = jnp.where(corrupted, (np.asarray(y) + rng.integers(1, 10, len(y))) % 10, y)
    samples, clean = (x, y, decay), (x_val, y_val)
    traces = {
        "double loop": optimise(double_loop, optax.adam(0.5), exact_steps, samples, clean),
        "single loop": optimise(single_loop, optax.sgd(300.0), steps, samples, clean),
    }

    @eqx.filter_jit
    def fit(logits):
        solve = argmin(training_loss, solver=LBFGS(max_steps=2000, tol=1e-4))
        return solve(logits, jnp.zeros((x.shape[1], 10)), x, y, decay)

    print(
        f"{name}: {len(y)} training samples, half with wrong labels; trained on the weights found:"
    )
    print("method         steps     time   validation loss   test error")
    results = {}
    for method, trace in traces.items():
        for count, seconds, logits in trace:
            theta = fit(logits)
            loss = float(validation_loss(theta, logits, x_val, y_val))
            results[method] = loss, error(theta, x_test, y_test)
            row = f"{loss:17.3f}   {results[method][1]:8.1f} %"
            print(f"{method:11} {count:8}  {seconds:5.1f} s {row}")
    return results


if __name__ == "__main__":
    main()
