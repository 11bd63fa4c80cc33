"""How much each training sample matters to the test loss, from one solve with the Hessian.

    python examples/influence.py

The derivative of the test loss with respect to the weight of a training sample is its influence
(Koh and Liang, 2017): minus it predicts what leaving the sample out does to the test loss. All of
them come from one hypergradient, and are compared with training again, without the sample, in
float64. Fashion-MNIST is read from the folder that the environment variable BILEVEL_DATA names;
where there is none, scikit-learn's digits are used.
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _data import data_folder
from datasets import load_dataset
from scipy.stats import pearsonr, spearmanr
from sklearn.datasets import load_digits

from bilevel import argmin, hypergradient
from bilevel.solvers import Newton


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
    return name, jnp.asarray(np.column_stack([x, np.ones(len(x))])), jnp.asarray(y)


def losses(theta, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(x @ theta, y)


def training_loss(theta, weights, x, y, decay):
    return jnp.mean(weights * losses(theta, x, y)) + decay / 2 * jnp.sum(theta**2)


def test_loss(theta, weights, x, y):
    return jnp.mean(losses(theta, x, y))


@jax.enable_x64(True)
def main(train=2000, test=2000, count=20, decay=1e-2, seed=0):
    name, x, y = load(train + test)
    cut = len(y) * train // (train + test)
    (x, x_test), (y, y_test) = (x[:cut], x[cut:]), (y[:cut], y[cut:])
    weights, theta0 = jnp.ones(cut), jnp.zeros((x.shape[1], 10))
    arguments = {"inner_args": (x, y, decay), "outer_args": (x_test, y_test)}

    compute = eqx.filter_jit(hypergradient(test_loss, training_loss, solver=Newton(steps=8)))
    compute(weights, theta0, **arguments)  # compiles
    began = time.perf_counter()
    h = compute(weights, theta0, **arguments)
    influence = -np.asarray(h.grad)
    influence_seconds = time.perf_counter() - began

    fit = eqx.filter_jit(argmin(training_loss, solver=Newton(steps=4)))

    def change_without(samples):
        theta = fit(weights.at[samples].set(0.0), h.theta, x, y, decay)
        return float(test_loss(theta, weights, x_test, y_test) - h.value)

    most = np.argsort(-np.abs(influence))[:count]
    helpful = np.argsort(-influence)[:count]
    random = np.random.default_rng(seed).choice(cut, count, replace=False)
    change_without(most[0])  # compiles
    began = time.perf_counter()
    pairs = {
        row: (influence[samples], np.array([change_without(sample) for sample in samples]))
        for row, samples in {"most influential": most, "random": random}.items()
    }
    seconds = (time.perf_counter() - began) / (2 * count)
    groups = {
        row: (influence[samples].sum(), change_without(samples))
        for row, samples in {"most helpful": helpful, "random": random}.items()
    }

    print(f"{name}: {cut} training samples; the test loss is {h.value:.4f}")
    print(f"one by one, {count} of   Pearson  Spearman  mean relative error")
    agreement = {}
    for row, (predicted, true) in pairs.items():
        wrong = np.mean(np.abs(predicted - true) / np.abs(true))
        pearson, spearman = (of(predicted, true)[0] for of in (pearsonr, spearmanr))
        agreement[row] = pearson, spearman, wrong
        print(f"{row:19} {pearson:10.4f}  {spearman:8.4f}  {100 * wrong:17.1f} %")
    print(f"{count} at once            predicted  retrained")
    for row, (predicted, true) in groups.items():
        print(f"{row:19} {predicted:+12.5f}  {true:+9.5f}")
    print(f"{influence_seconds:.2f} s to train and to predict for all {cut} samples;")
    print(f"{seconds:.3f} s to train again without one, so {seconds * cut:.0f} s without each")
    return agreement, groups


if __name__ == "__main__":
    main()
