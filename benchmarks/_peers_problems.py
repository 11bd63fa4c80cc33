"""The problems that the peers are given: losses written once for JAX and PyTorch, data in NumPy."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
from _report import data_folder
from jax import lax

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def _jax_conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=DIMENSIONS)


def _jax_pool(x):
    rows, height, width, channels = x.shape
    return x.reshape(rows, height // 2, 2, width // 2, 2, channels).mean((2, 4))


JAX = SimpleNamespace(
    exp=jnp.exp,
    tanh=jnp.tanh,
    sigmoid=jax.nn.sigmoid,
    log_softmax=jax.nn.log_softmax,
    conv=_jax_conv,
    pool=_jax_pool,
    space=(1, 2),
)


@cache
def torch_ops():
    import torch

    return SimpleNamespace(
        exp=torch.exp,
        tanh=torch.tanh,
        sigmoid=torch.sigmoid,
        log_softmax=partial(torch.log_softmax, dim=-1),
        conv=partial(torch.nn.functional.conv2d, padding="same"),
        pool=lambda x: torch.nn.functional.avg_pool2d(x, 2),
        space=(2, 3),
    )


def to_torch(array):
    """A tensor; images and kernels in PyTorch's order of axes."""
    import torch

    if array.ndim == 4:
        kernel = array.shape[0] == array.shape[1] == 3
        array = array.transpose((3, 2, 0, 1) if kernel else (0, 3, 1, 2))
    return torch.tensor(np.ascontiguousarray(array, np.float32))


@dataclass(frozen=True)
class Problem:
    """`inner(ops, theta, psi, *train)` and `outer(ops, theta, *validation)`; theta is a tuple."""

    name: str
    inner: Callable
    outer: Callable
    theta: tuple[np.ndarray, ...]
    psi: np.ndarray
    train: tuple[np.ndarray, ...]
    validation: tuple[np.ndarray, ...]

    @property
    def size(self) -> int:
        return sum(leaf.size for leaf in self.theta)


def ridge_inner(ops, theta, psi, x, y):
    (w,) = theta
    return ((x @ w - y) ** 2).mean() / 2 + (ops.exp(psi) * w**2).sum() / 2


def ridge_outer(ops, theta, x, y):
    return ((x @ theta[0] - y) ** 2).mean() / 2


def cross_entropy(ops, logits, y):
    return -(y * ops.log_softmax(logits)).sum(-1)


def linear_outer(ops, theta, x, y):
    return cross_entropy(ops, x @ theta[0], y).mean()


def logistic_inner(ops, theta, psi, x, y):
    (w,) = theta
    return linear_outer(ops, theta, x, y) + (ops.exp(psi)[:, None] * w**2).sum() / 2


def cleaning_inner(ops, theta, psi, x, y):
    (w,) = theta
    return (ops.sigmoid(psi) * cross_entropy(ops, x @ w, y)).mean() + 5e-4 * (w**2).sum()


def network(ops, theta, x):
    for weight, bias in zip(theta[:-2:2], theta[1:-2:2], strict=True):
        x = ops.tanh(x @ weight + bias)
    return x @ theta[-2] + theta[-1]


def convolutions(ops, theta, x):
    first, second, head = theta
    hidden = ops.pool(ops.tanh(ops.conv(x, first)))
    return ops.tanh(ops.conv(hidden, second)).mean(ops.space) @ head


def outer_of(model):
    return lambda ops, theta, x, y: cross_entropy(ops, model(ops, theta, x), y).mean()


def inner_of(model):
    fit = outer_of(model)

    def inner(ops, theta, psi, x, y):
        weights = [leaf for leaf in theta if leaf.ndim > 1]
        decay = sum((ops.exp(psi[i]) * (w**2).sum() for i, w in enumerate(weights)), start=0.0)
        biases = sum(((leaf**2).sum() for leaf in theta if leaf.ndim == 1), start=0.0)
        return fit(ops, theta, x, y) + decay / 2 + 5e-3 * biases

    return inner


def ridge(size: int) -> Problem:
    """A penalty per feature; the features' scales fall off."""
    rng, rows = np.random.default_rng(0), min(2000, 30_000_000 // size)
    scales = np.arange(1, size + 1) ** -0.5
    truth = rng.normal(size=size)
    x, x_val = rng.normal(size=(2, rows, size)) * scales
    y, y_val = (a @ truth + rng.normal(size=rows) for a in (x, x_val))
    psi = rng.uniform(-5, -3, size)
    return Problem(
        f"ridge, {size:,}", ridge_inner, ridge_outer, (np.zeros(size),), psi, (x, y), (x_val, y_val)
    )


def logistic(size: int) -> Problem:
    """Ten classes, a penalty per feature."""
    rng, features = np.random.default_rng(0), size // 10
    rows = min(2000, 5_000_000 // features)
    scales = np.arange(1, features + 1) ** -0.5
    x, x_val = rng.normal(size=(2, rows, features)) * scales
    truth = 2 * rng.normal(size=(features, 10))
    y, y_val = (one_hot(np.argmax(a @ truth + rng.gumbel(size=(rows, 10)), 1)) for a in (x, x_val))
    theta, psi = (np.zeros((features, 10)),), rng.uniform(-7, -5, features)
    return Problem(
        f"logistic, {size:,}", logistic_inner, linear_outer, theta, psi, (x, y), (x_val, y_val)
    )


def data_cleaning() -> Problem:
    """A weight for each of 5,000 images of MNIST, half of whose labels are corrupted."""
    x, labels = mnist(6000)
    x = np.column_stack([x.reshape(len(x), -1), np.ones(len(x))])
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(5000) < 0.5, rng.integers(0, 10, 5000), labels[:5000])
    theta, psi = (np.zeros((785, 10)),), rng.normal(size=5000)
    train, validation = (x[:5000], one_hot(noisy)), (x[5000:], one_hot(labels[5000:]))
    return Problem(
        "data cleaning, 7,850", cleaning_inner, linear_outer, theta, psi, train, validation
    )


def small_network(wider: int = 1, rows: int = 500, decay: float = 1e-3) -> Problem:
    """A multi-layer perceptron, a weight decay per layer."""
    rng, widths = np.random.default_rng(0), (32, 64 * wider, 64 * wider, 10)
    teacher = glorot(rng, [(32, 64), (64, 10)])
    x, x_val = rng.normal(size=(2, rows, 32))
    y, y_val = (teach(rng, np.tanh(3 * a @ teacher[0]) @ teacher[1]) for a in (x, x_val))
    weights = glorot(rng, zip(widths, widths[1:], strict=False))
    theta = tuple(leaf for w in weights for leaf in (w, np.zeros(w.shape[1])))
    psi, inner, outer = np.log([decay] * 3), inner_of(network), outer_of(network)
    return Problem("network", inner, outer, theta, psi, (x, y), (x_val, y_val))


def small_convnet(wider: int = 1, rows: int = 100, decay: float = 3e-2) -> Problem:
    """Two convolutions and a linear layer on images of 12 x 12, a weight decay per layer."""
    rng, (first, second) = np.random.default_rng(0), (8 * wider, 16 * wider)
    theta = glorot(rng, [(3, 3, 3, first), (3, 3, first, second), (second, 10)])
    x, x_val = rng.normal(size=(2, rows, 12, 12, 3))
    teacher = glorot(rng, [leaf.shape for leaf in theta])
    y, y_val = (teach(rng, 20 * np.asarray(convolutions(JAX, teacher, a))) for a in (x, x_val))
    inner, outer = inner_of(convolutions), outer_of(convolutions)
    psi = np.log([decay] * 3)
    return Problem("convolutions", inner, outer, tuple(theta), psi, (x, y), (x_val, y_val))


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "ridge_1000": partial(ridge, 1000),
    "ridge_10000": partial(ridge, 10_000),
    "ridge_100000": partial(ridge, 100_000),
    "logistic_1000": partial(logistic, 1000),
    "logistic_10000": partial(logistic, 10_000),
    "logistic_100000": partial(logistic, 100_000),
    "data_cleaning": data_cleaning,
    "network": small_network,
    "convolutions": small_convnet,
}


def one_hot(labels):
    return np.eye(10)[labels]


def teach(rng, logits):
    return one_hot(np.argmax(logits + rng.gumbel(size=logits.shape) / 2, 1))


def glorot(rng, shapes):
    return [rng.normal(size=shape) / np.sqrt(np.prod(shape[:-1])) for shape in shapes]


def mnist(size):
    from datasets import load_dataset

    rows = load_dataset(str(data_folder("mnist")), split=f"train[:{size}]").with_format("numpy")[:]
    return np.asarray(rows["image"]) / 255, np.asarray(rows["label"])


def arrays(problem, dtype):
    def convert(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)

    return tuple(
        map(convert, (problem.theta, problem.psi, problem.train, problem.validation))
    )  # fmt: skip


def jax_losses(problem):
    def inner(theta, psi, *train):
        return problem.inner(JAX, theta, psi, *train)

    def outer(theta, psi, *validation):
        return problem.outer(JAX, theta, *validation)

    return inner, outer
