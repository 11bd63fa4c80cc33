"""Find corrupted labels by learning one weight a training sample.

    python examples/data_cleaning.py

Half of the training labels are replaced by random ones. The inner problem fits a softmax regression
on weighted samples; the outer problem chooses the weights, so that the loss on a small clean
validation set is least. Fashion-MNIST is read from the folder that the environment variable
BILEVEL_DATA names; where there is none, scikit-learn's digits are used.
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
from sklearn.metrics import roc_auc_score

from bilevel import argmin, hypergradient
from bilevel.inverse_hvp import CG
from bilevel.solvers import LBFGS, Newton


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


def error(theta, x, y):
    """In percent."""
    return 100 * float(jnp.mean(jnp.argmax(x @ theta, 1) != y))


def main(train=2000, validation=1000, test=2000, steps=60, decay=1e-3, seed=0):
    name, x, y = load(train + validation + test)
    cuts = len(y) * np.cumsum([train, validation]) // (train + validation + test)
    (x, x_val, x_test), (y, y_val, y_test) = np.split(x, cuts), np.split(y, cuts)
    rng = np.random.default_rng(seed)
    corrupted = rng.random(len(y)) < 0.5
    wrong = (np.asarray(y) + rng.integers(1, 10, len(y))) % 10
    y = jnp.where(corrupted, wrong, y)

    # An inexact Newton step from the last theta is a solve: the weights change little at a time.
    compute = hypergradient(validation_loss, training_loss, solver=Newton(CG(rtol=1e-2)))
    optimiser = optax.adam(0.5)

    @eqx.filter_jit
    def update(logits, state, theta, v, inner_args, outer_args):
        h = compute(logits, theta, inner_args=inner_args, outer_args=outer_args, v0=v)
        updates, state = optimiser.update(h.grad, state)
        return optax.apply_updates(logits, updates), state, h

    logits = jnp.zeros(len(y))
    theta = v = jnp.zeros((x.shape[1], 10))
    state = optimiser.init(logits)
    began = time.perf_counter()
    for _ in range(steps):
        logits, state, h = update(logits, state, theta, v, (x, y, decay), (x_val, y_val))
        theta, v = h.theta, h.adjoint.v
    seconds = time.perf_counter() - began

    @eqx.filter_jit
    def fit(logits, decay):
        solve = argmin(training_loss, solver=LBFGS(max_steps=5000))
        return solve(logits, jnp.zeros_like(theta), x, y, decay)

    everything = jnp.full(len(y), jnp.inf)
    decays = [fit(everything, decay * 10**power) for power in np.arange(-0.5, 3, 0.5)]
    fitted = {
        "all samples": fit(everything, decay),
        "all, best decay": min(decays, key=lambda theta: error(theta, x_val, y_val)),
        "weights found": fit(logits, decay),
        "clean samples": fit(jnp.where(corrupted, -jnp.inf, jnp.inf), decay),
    }
    errors = {row: error(theta, x_test, y_test) for row, theta in fitted.items()}
    auc = float(roc_auc_score(corrupted, -np.asarray(logits)))
    print(f"{name}: {len(y)} training samples, {np.sum(corrupted)} of them with a wrong label")
    print(f"{'trained on':16} test error")
    for row, percent in errors.items():
        print(f"{row:16} {percent:8.1f} %")
    print(f"low weight finds wrong labels with an area under the ROC curve of {auc:.3f}")
    print(f"{steps} hypergradients in {seconds:.1f} s")
    return errors, auc


if __name__ == "__main__":
    main()
