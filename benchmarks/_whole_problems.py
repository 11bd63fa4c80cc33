"""Whole bilevel problems: data, both losses, where to start, and what psi is worth."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _report import data_folder
from jax.flatten_util import ravel_pytree

from bilevel.solvers import NewtonCG


@dataclass
class Whole:
    """A problem; `batches` are its losses on part of the rows, where the suite's solvers run."""

    name: str
    inner: Callable[..., Any]
    outer: Callable[..., Any]
    psi0: Any
    theta0: Any
    inner_args: tuple = ()
    outer_args: tuple = ()
    batches: dict[str, Any] | None = None
    measures: Callable[[Any, Any], dict[str, float]] = field(default=lambda theta, psi: {})
    judge_by: NewtonCG = field(default_factory=lambda: NewtonCG(rtol=1e-7, max_steps=300))

    @cached_property
    def _solve(self):
        def solve(psi, theta):
            found, _ = self.judge_by(lambda t: self.inner(t, psi, *self.inner_args), theta)
            return found, self.outer(found, psi, *self.outer_args)

        return jax.jit(solve)

    def judge(self, psi: Any, theta: Any) -> tuple[float, dict[str, float]]:
        """The outer loss where the inner problem is solved, from theta; and other measures."""
        theta, value = self._solve(psi, theta)
        return float(value), self.measures(theta, psi)


def mnist() -> tuple[Any, ...]:
    """All images as rows of bytes, with their labels: of the training set, and of the test set."""
    from datasets import load_dataset

    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        rows = load_dataset(str(data_folder("mnist")), split=split).with_format("numpy")[:]
        images = np.stack(rows["image"]).reshape(len(rows["label"]), -1)
        parts += [images.astype(np.float64), np.asarray(rows["label"])]
    return tuple(parts)


def cross_entropy(logits, targets):
    return jax.nn.logsumexp(logits, axis=1) - jnp.sum(targets * logits, axis=1)


def linear(theta, x):
    return x @ theta.reshape(x.shape[1], 10)


def mnist_cleaning(inner_reg: float = 0.2) -> Whole:
    """The MNIST problem of benchopt/benchmark_bilevel at p = 0.5: half of the labels drawn anew."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    x, labels, test_x, test_labels = mnist()
    rng = np.random.RandomState(32)
    split = train_test_split(x, labels, test_size=5000, train_size=20000, random_state=rng)
    train_x, valid_x, train_labels, valid_labels = split
    anew, train_labels = rng.rand(20000) < 0.5, train_labels.copy()
    train_labels[anew] = rng.randint(0, 10, anew.sum())
    scale = StandardScaler()
    train_x = jnp.asarray(scale.fit_transform(train_x))
    valid_x, test_x = jnp.asarray(scale.transform(valid_x)), jnp.asarray(scale.transform(test_x))
    train_y, valid_y = jnp.eye(10)[train_labels], jnp.eye(10)[valid_labels]

    def inner(theta, psi, x, y):
        losses = jax.nn.sigmoid(psi) * cross_entropy(linear(theta, x), y)
        return jnp.mean(losses) + inner_reg * jnp.sum(theta**2)

    def outer(theta, psi, x, y):
        return jnp.mean(cross_entropy(linear(theta, x), y))

    def rows(array, start, size):
        return jax.lax.dynamic_slice_in_dim(array, start, size)

    def inner_batch(theta, psi, start=0, batch_size=1):
        part = [rows(each, start, batch_size) for each in (psi, train_x, train_y)]
        return inner(theta, *part)

    def outer_batch(theta, psi, start=0, batch_size=1):
        return outer(theta, psi, rows(valid_x, start, batch_size), rows(valid_y, start, batch_size))

    def measures(theta, psi):
        found = jnp.argmax(linear(theta, test_x), axis=1)
        return {"test error": float(jnp.mean(found != test_labels))}

    return Whole(
        "MNIST cleaning",
        inner,
        outer,
        jnp.full(20000, -2.0),
        jnp.zeros(7840),
        (train_x, train_y),
        (valid_x, valid_y),
        {"inner": inner_batch, "outer": outer_batch, "samples": (20000, 5000)},
        measures,
    )


def quadratics(rows: int = 1024, size: int = 100) -> Whole:
    """Means of quadratics with random matrices, after the suite's simulated problem."""
    rng = np.random.default_rng(2442)

    def spectrum(least, most, smooth):
        basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        eigenvalues = np.linspace(least, most, size)
        mean = basis * eigenvalues @ basis.T
        noise = rng.normal(size=(rows, size, size)) * smooth
        noise = (noise + noise.transpose(0, 2, 1)) / 2
        return mean + noise - noise.mean(0)

    parts = {}
    for name in ("inner", "outer"):
        cross = rng.normal(size=(rows, size, size)) * 0.1 / size**0.5
        parts[name] = (
            spectrum(0.1, 1.0, 0.1),
            spectrum(0.1, 1.0, 0.1),
            cross,
            rng.normal(size=(rows, size)),
            rng.normal(size=(rows, size)),
        )
    arrays = {name: tuple(map(jnp.asarray, part)) for name, part in parts.items()}
    means = {name: tuple(each.mean(0) for each in part) for name, part in arrays.items()}

    def quadratic(theta, psi, in_theta, in_psi, cross, along_theta, along_psi):
        value = theta @ in_theta @ theta / 2 + psi @ in_psi @ psi / 2 + psi @ cross @ theta
        return value + along_theta @ theta + along_psi @ psi

    def batch(name):
        def loss(theta, psi, start=0, batch_size=1):
            part = [jax.lax.dynamic_slice_in_dim(a, start, batch_size) for a in arrays[name]]
            return jnp.mean(jax.vmap(lambda *m: quadratic(theta, psi, *m))(*part))

        return loss

    batches = {"inner": batch("inner"), "outer": batch("outer"), "samples": (rows, rows)}
    zeros = jnp.zeros(size)
    args = (means["inner"], means["outer"])
    return Whole("quadratics", quadratic, quadratic, zeros - 2, zeros, *args, batches)


def penalties() -> Whole:
    """Logistic regression on MNIST with one penalty for each of the 7,840 weights."""
    x, labels, *_ = mnist()
    x = x / 255
    train, valid = slice(0, 2000), slice(2000, 6000)
    targets = np.eye(10)[labels]

    def inner(theta, psi, x, y):
        fit = jnp.mean(cross_entropy(linear(theta, x), y))
        return fit + jnp.sum(jnp.exp(psi) * theta**2)

    def outer(theta, psi, x, y):
        return jnp.mean(cross_entropy(linear(theta, x), y))

    args = [tuple(map(jnp.asarray, (x[part], targets[part]))) for part in (train, valid)]
    return Whole("7,840 penalties", inner, outer, jnp.full(7840, -6.0), jnp.zeros(7840), *args)


def network() -> Whole:
    """Four hyperparameters of a network on digits: three penalties and a smoothing of labels."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    x, targets = x / 16, np.eye(10)[labels]
    order = np.random.default_rng(0).permutation(len(x))
    train, valid = order[:400], order[400:1100]
    keys = jax.random.split(jax.random.key(0), 2)
    theta0 = {
        "in": jax.random.normal(keys[0], (64, 20)) / 8,
        "out": jax.random.normal(keys[1], (20, 10)) / 20**0.5,
        "bias": jnp.zeros(20),
    }

    def logits(theta, x):
        return jnp.tanh(x @ theta["in"] + theta["bias"]) @ theta["out"]

    def inner(theta, psi, x, y):
        smooth = 0.5 * jax.nn.sigmoid(psi[3])
        fit = jnp.mean(cross_entropy(logits(theta, x), (1 - smooth) * y + smooth / 10))
        sizes = jnp.stack([jnp.sum(theta[name] ** 2) for name in ("in", "out", "bias")])
        return fit + jnp.vdot(jnp.exp(psi[:3]), sizes)

    def outer(theta, psi, x, y):
        return jnp.mean(cross_entropy(logits(theta, x), y))

    args = [tuple(map(jnp.asarray, (x[part], targets[part]))) for part in (train, valid)]
    return Whole("network", inner, outer, jnp.array([-6.0, -6.0, -6.0, -3.0]), theta0, *args)


def small_cleaning() -> Whole:
    """That of MLS-Bench with its linear classifier: 5,000 rows, half of them mislabelled."""
    return mislabelled("small cleaning", linear, jnp.zeros(7840))


def network_cleaning() -> Whole:
    """That of MLS-Bench with its network: 784 inputs, 300 sigmoids, 10 outputs."""
    keys = jax.random.split(jax.random.key(0), 2)
    theta0 = {
        "in": jax.random.normal(keys[0], (784, 300)) / 28,
        "out": jax.random.normal(keys[1], (300, 10)) / 300**0.5,
        "biases": (jnp.zeros(300), jnp.zeros(10)),
    }

    def logits(theta, x):
        hidden = jax.nn.sigmoid(x @ theta["in"] + theta["biases"][0])
        return hidden @ theta["out"] + theta["biases"][1]

    # All digits of its flat minima would take the judge a quarter of an hour for each psi.
    judge_by = NewtonCG(rtol=1e-4, max_steps=20)
    return replace(mislabelled("network cleaning", logits, theta0), judge_by=judge_by)


def mislabelled(name: str, logits: Callable[[Any, Any], jax.Array], theta0: Any) -> Whole:
    x, labels, test_x, test_labels = mnist()
    rng = np.random.default_rng(0)
    order = rng.permutation(len(x))[:10_000]
    x, labels = x[order] / 255, labels[order]
    wrong = rng.random(5000) < 0.5
    given = labels[:5000].copy()
    given[wrong] = (given[wrong] + rng.integers(1, 10, wrong.sum())) % 10
    train = (jnp.asarray(x[:5000]), jnp.eye(10)[given])
    valid = (jnp.asarray(x[5000:]), jnp.eye(10)[labels[5000:]])
    test_x = jnp.asarray(test_x / 255)

    def inner(theta, psi, x, y):
        losses = jax.nn.sigmoid(psi) * cross_entropy(logits(theta, x), y)
        return jnp.mean(losses) + 1e-3 * sum(jnp.sum(each**2) for each in jax.tree.leaves(theta))

    def outer(theta, psi, x, y):
        return jnp.mean(cross_entropy(logits(theta, x), y))

    def measures(theta, psi):
        found = jnp.argmax(logits(theta, test_x), axis=1)
        told = np.asarray(psi) < 0
        right = (told & wrong).sum()
        return {
            "test accuracy": float(jnp.mean(found == test_labels)),
            "F1 of wrong labels": float(2 * right / max(told.sum() + wrong.sum(), 1)),
        }

    return Whole(name, inner, outer, jnp.zeros(5000), theta0, train, valid, None, measures)


PROBLEMS: dict[str, Callable[[], Whole]] = {
    "mnist_cleaning": mnist_cleaning,
    "quadratics": quadratics,
    "penalties": penalties,
    "network": network,
    "small_cleaning": small_cleaning,
    "network_cleaning": network_cleaning,
}
REAL = ("mnist_cleaning", "penalties", "small_cleaning", "network_cleaning")


def available(name: str) -> bool:
    return name not in REAL or Path(data_folder("mnist")).is_dir()


def flat(tree: Any) -> np.ndarray:
    return np.asarray(ravel_pytree(tree)[0])
