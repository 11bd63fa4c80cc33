"""Tune thousands of hyperparameters by hypergradients, against unrolling and random search.

    python examples/hyperparameter_optimization.py

First one L2 penalty for each of the weights of a logistic regression; then the continuous
hyperparameters of a small network: a weight decay for each layer, the label smoothing, the scale of
the inputs and of the noise on them. Random search draws one shared penalty (for the network, all
five). Times include compilation. Fashion-MNIST is read from the folder that the environment
variable BILEVEL_DATA names; where there is none, scikit-learn's digits are used.
"""

import time
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _data import data_folder
from datasets import load_dataset
from sklearn.datasets import load_digits

from bilevel import argmin, hypergradient, unrolled_value_and_grad
from bilevel.inverse_hvp import CG
from bilevel.solvers import LBFGS, GradientDescent


def load(size):
    """The name of the set, `size` rows of pixels, their labels as one-hot rows."""
    folder = data_folder("fashion_mnist")
    if folder.is_dir():
        name, split = "Fashion-MNIST", f"train[:{size}]"
        rows = load_dataset(str(folder), split=split).with_format("numpy")[:]
        x, y = rows["image"].reshape(len(rows["label"]), -1) / 255, rows["label"]
    else:
        name, (x, y) = "digits", map(np.asarray, load_digits(return_X_y=True))
        x, y = x[:size] / 16, y[:size]
    return name, jnp.asarray(x, jnp.float32), jax.nn.one_hot(jnp.asarray(y), 10)


def cross_entropy(outputs, y):
    return jnp.mean(optax.softmax_cross_entropy(outputs, y))


def penalised_loss(weights, log_penalty, x, y, noise):
    return (
        cross_entropy(linear_outputs(weights, log_penalty, x), y)
        + jnp.sum(jnp.exp(log_penalty) * weights**2) / 2
    )


def linear_outputs(weights, log_penalty, x):
    return x @ weights


def network_loss(weights, psi, x, y, noise):
    y = optax.smooth_labels(y, jax.nn.sigmoid(psi["smoothing"]))
    outputs = network_outputs(weights, psi, x + jnp.exp(psi["noise"]) * noise)
    squares = jnp.stack([jnp.sum(layer**2) for layer in weights])
    return cross_entropy(outputs, y) + jnp.sum(jnp.exp(psi["decay"]) * squares) / 2


def network_outputs(weights, psi, x):
    return jax.nn.softplus(jnp.exp(psi["scale"]) * x @ weights[0]) @ weights[1]


def compare(title, problem, sets, steps, rate):
    """Print a row for each way to choose psi; the errors, in percent, of models trained anew."""
    inner, outputs, draw, psi0, theta0, descent = problem
    train, validation, test = sets
    optimiser = optax.adam(rate)

    def outer(theta, psi, x, y):
        return cross_entropy(outputs(theta, psi, x), y), theta

    # The Hessian of a network may be indefinite: CG then keeps its last sound iterate.
    how = {"solver": LBFGS(max_steps=100), "inverse_hvp": CG(max_steps=50, damping=1e-3)}
    implicit = hypergradient(outer, inner, **how, has_aux=True, throw="ignore")
    unrolled = unrolled_value_and_grad(outer, inner, solver=descent, has_aux=True)
    fit = eqx.filter_jit(argmin(inner, solver=LBFGS(max_steps=300), throw="ignore"))

    def by_hypergradient(psi, theta, v, train, validation):
        h = implicit(psi, theta, inner_args=train, outer_args=validation, v0=v)
        return h.grad, h.theta, h.adjoint.v

    def by_unrolling(psi, theta, v, train, validation):
        (_, theta), grad = unrolled(psi, theta, inner_args=train, outer_args=validation)
        return grad, theta, v

    def tune(gradient):
        @eqx.filter_jit
        def update(psi, theta, v, state, train, validation):
            grad, theta, v = gradient(psi, theta, v, train, validation)
            updates, state = optimiser.update(grad, state)
            return optax.apply_updates(psi, updates), theta, v, state

        carry = psi0, theta0, optax.tree.zeros_like(theta0), optimiser.init(psi0)
        for _ in range(steps):
            carry = update(*carry, train, validation)
        return jax.block_until_ready(carry[0])

    def search():
        rng = np.random.default_rng(0)
        draws = [draw(rng) for _ in range(steps)]
        return min(draws, key=lambda psi: outer(fit(psi, theta0, *train), psi, *validation)[0])

    ways = {
        "random search": search,
        "hypergradient": partial(tune, by_hypergradient),
        "unrolling": partial(tune, by_unrolling),
    }
    count = sum(jnp.size(leaf) for leaf in jax.tree.leaves(psi0))
    print(f"{title}, {count} hyperparameters")
    print("                validation error  test error  inner solves    time")
    errors = {}
    for row, choose in ways.items():
        began = time.perf_counter()
        found = choose()
        seconds = time.perf_counter() - began
        theta = fit(found, theta0, *train)
        errors[row] = [
            100 * float(jnp.mean(jnp.argmax(outputs(theta, found, x), 1) != jnp.argmax(y, 1)))
            for x, y in (validation, test)
        ]
        print("{:15} {:14.1f} % {:9.1f} %".format(row, *errors[row]), end="")
        print(f"{steps:14} {seconds:5.1f} s")
    return errors


def main(train=500, validation=2000, test=2000, steps=20, network_steps=15, width=32):
    name, x, y = load(train + validation + test)
    cuts = len(y) * np.cumsum([train, validation]) // (train + validation + test)
    (x, *xs), (y, *ys) = np.split(x, cuts), np.split(y, cuts)
    noise_key, *keys = jax.random.split(jax.random.key(0), 3)
    sets = (x, y, jax.random.normal(noise_key, x.shape)), *zip(xs, ys, strict=True)
    pixels = x.shape[1]
    print(f"{name}: {len(y)} training, {len(ys[0])} validation and {len(ys[1])} test samples")

    weights = jnp.zeros((pixels, 10))
    descent = GradientDescent(optax.sgd(0.1, momentum=0.9), steps=100)

    def draw_penalty(rng):
        return jnp.full_like(weights, rng.uniform(-10, 0))

    problem = penalised_loss, linear_outputs, draw_penalty, weights - 5, weights, descent
    logistic = compare("logistic regression", problem, sets, steps, 0.1)

    shapes = (pixels, width), (width, 10)
    layers = [
        jax.random.normal(key, shape) / np.sqrt(shape[0])
        for key, shape in zip(keys, shapes, strict=True)
    ]
    bounds = {"decay": (-10, 0), "smoothing": (-6, 0), "scale": (-2, 2), "noise": (-4, 0)}
    psi = {"decay": [-7.0, -7.0], "smoothing": -4.0, "scale": 0.0, "noise": -3.0}
    psi = {hyperparameter: jnp.asarray(value) for hyperparameter, value in psi.items()}

    def draw_psi(rng):
        return {
            row: jnp.asarray(rng.uniform(*bounds[row], jnp.shape(leaf)), jnp.float32)
            for row, leaf in psi.items()
        }

    descent = GradientDescent(optax.adam(0.005), steps=100)
    problem = network_loss, network_outputs, draw_psi, psi, layers, descent
    return logistic, compare("network", problem, sets, network_steps, 0.2)


if __name__ == "__main__":
    main()
