"""One hypergradient of ours against the peers': time at equal error, compile time and memory.

    python benchmarks/peers.py --problems network data_cleaning

Every contestant is handed the same theta*, found once in float64, and solves for the adjoint with
conjugate gradients in float32. A float64 run says how many steps (and which residual) bring the
hypergradient within `--error` of the exact one: that is the tolerance which all are given. Turns
interleave, so that load on the machine hits all alike. A peer that is not installed is left out.
"""

import argparse
import gc
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _report import table, write
from jax import lax
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

from bilevel import hypergradient
from bilevel.inverse_hvp import CG

DATA = Path(os.environ.get("BILEVEL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
MAX_STEPS = 2000
# jaxlib 0.10.2 fuses products for YNNPACK wrongly: without this, `jax.scipy`'s CG, and so jaxopt,
# ends its first step on the data-cleaning problem with zeros or NaN.
XLA_FLAGS = "--xla_cpu_experimental_ynn_fusion_type="
DIMENSIONS = ("NHWC", "HWIO", "NHWC")


# What the losses are written in, once for JAX and once for PyTorch.


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


# The problems: losses in those operations, data in NumPy.


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

    rows = load_dataset(str(DATA / "mnist"), split=f"train[:{size}]").with_format("numpy")[:]
    return np.asarray(rows["image"]) / 255, np.asarray(rows["label"])


# The judge: theta* and the exact hypergradient, in float64, by none of the contestants.


@dataclass(frozen=True)
class Reference:
    """The exact hypergradient, and the steps and residual which bring CG within the error."""

    grad: np.ndarray
    steps: int
    rtol: float
    curvature: float  # a bound from above on that of the inner loss


def solve_exactly(problem: Problem, error: float) -> tuple[Problem, Reference]:
    with jax.enable_x64(True):
        problem = replace(problem, theta=_minimise(problem))
        iterates = [(r, np.asarray(grad), b) for r, grad, b in conjugate_gradients(problem)]
    exact = iterates[-1][1]
    errors = [np.linalg.norm(grad - exact) / np.linalg.norm(exact) for _, grad, _ in iterates]
    # The first step after which no error is above it.
    steps = 2 + max((i for i, each in enumerate(errors) if each > error), default=-1)
    residual = iterates[min(steps, len(iterates)) - 1][0]
    curvature = 1.1 * max(rayleigh for _, _, rayleigh in iterates)
    return problem, Reference(exact, steps, 1.001 * residual, curvature)


def _minimise(problem):
    start, unravel = ravel_pytree(arrays(problem, np.float64)[0])
    _, psi, train, _ = arrays(problem, np.float64)

    def loss(flat, psi, train):
        return problem.inner(JAX, unravel(flat), psi, *train)

    @jax.jit
    def product(flat, v, psi, train):
        return jax.jvp(lambda f: jax.grad(loss)(f, psi, train), (flat,), (v,))[1]

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    function = lambda f: jax.tree.map(np.asarray, value_and_grad(f, psi, train))  # noqa: E731
    near = minimize(
        function,
        start,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 6000, "maxcor": 50, "ftol": 0.0, "gtol": 1e-7},
    )
    found = minimize(
        function,
        near.x,
        jac=True,
        hessp=lambda f, v: np.asarray(product(f, v, psi, train)),
        method="trust-ncg",
        options={"gtol": 1e-8, "maxiter": 300},
    )
    print(f"  theta*: {found.nit} steps, gradient {np.linalg.norm(found.jac):.1e}", flush=True)
    return tuple(np.asarray(leaf) for leaf in unravel(jnp.asarray(found.x)))


def conjugate_gradients(problem: Problem):
    """(residual, hypergradient, curvature along the residual) of each step, until 1e-12; to be
    called with 64-bit numbers.
    """
    theta, psi, train, validation = arrays(problem, np.float64)
    g = jax.jit(jax.grad(lambda t, *given: problem.outer(JAX, t, *given)))(theta, *validation)
    flat, unravel = ravel_pytree(g)

    @jax.jit
    def gradient(theta, psi, train):
        return jax.grad(lambda t: problem.inner(JAX, t, psi, *train))(theta)

    @jax.jit
    def step(state, theta, psi, train):
        v, r, p = state
        hp = ravel_pytree(
            jax.jvp(lambda t: gradient(t, psi, train), (theta,), (unravel(p),))[1]
        )[0]  # fmt: skip
        length = (r @ r) / (p @ hp)
        v, after = v + length * p, r - length * hp
        _, pull = jax.vjp(lambda psi: gradient(theta, psi, train), psi)
        ratio = (after @ after) / (r @ r)
        # The diagonal of Lanczos' matrix grows with the largest eigenvalue, from below.
        return (v, after, after + ratio * p), p @ hp, -pull(unravel(v))[0], 1 / length * (1 + ratio)

    state = (jnp.zeros_like(flat), flat, flat)
    for _ in range(MAX_STEPS):
        state, curvature, grad, bound = step(state, theta, psi, train)
        if not curvature > 0:
            raise RuntimeError(f"{problem.name}: theta* is not a strict minimum")
        residual = float(jnp.linalg.norm(state[1]) / jnp.linalg.norm(flat))
        yield residual, grad, float(bound)
        if residual < 1e-12:
            return


def arrays(problem, dtype):
    def convert(tree):
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)

    return tuple(
        map(convert, (problem.theta, problem.psi, problem.train, problem.validation))
    )  # fmt: skip


# The contestants: each makes a function of nothing that returns the hypergradient, compiled where
# it is one program, so that clearing what was compiled spares it.


@dataclass(frozen=True)
class Contestant:
    call: Callable[[], Any]
    megabytes: float | None = None  # temporary memory of the compiled program


def compiled(gradient, *arguments) -> Contestant:
    program = jax.jit(gradient).lower(*arguments).compile()
    analysis = program.memory_analysis()
    return Contestant(
        lambda: jax.block_until_ready(program(*arguments)),
        None if analysis is None else analysis.temp_size_in_bytes / 1e6,
    )


def jax_losses(problem):
    def inner(theta, psi, *train):
        return problem.inner(JAX, theta, psi, *train)

    def outer(theta, psi, *validation):
        return problem.outer(JAX, theta, *validation)

    return inner, outer


def ours(problem: Problem, reference: Reference, jit: bool) -> Contestant:
    inner, outer = jax_losses(problem)
    theta, psi, train, validation = arrays(problem, np.float32)
    inverse = CG(rtol=reference.rtol, max_steps=reference.steps + 20)
    compute = hypergradient(outer, inner, solver=lambda _, start: start, inverse_hvp=inverse)

    def gradient(theta, psi, train, validation):
        return compute(psi, theta, inner_args=train, outer_args=validation).grad

    if jit:
        return compiled(gradient, theta, psi, train, validation)
    return Contestant(lambda: jax.block_until_ready(gradient(theta, psi, train, validation)))


def jaxopt_root(problem: Problem, reference: Reference) -> Contestant:
    """`custom_root` with `solve_cg`, all of it under one jit."""
    from jaxopt.implicit_diff import custom_root
    from jaxopt.linear_solve import solve_cg

    inner, outer = jax_losses(problem)
    solve = partial(solve_cg, tol=reference.rtol, maxiter=MAX_STEPS)

    def gradient(theta, psi, train, validation):
        def optimality(theta, psi):
            return jax.grad(inner)(theta, psi, *train)

        root = custom_root(optimality, solve=solve)(lambda theta, psi: theta)
        return jax.grad(lambda psi: outer(root(theta, psi), psi, *validation))(psi)

    return compiled(gradient, *arrays(problem, np.float32))


def _optimistix_root(inputs):
    return inputs[1], None


def _optimistix_condition(root, _, inputs):
    psi, _, train, inner, _ = inputs  # the last: a while loop, for solvers that take steps
    # Any multiple has the same root. lineax's CG calls a curvature of less than 100 epsilons times
    # the number of parameters a breakdown, which those of a loss with a small penalty are.
    return jax.tree.map(lambda leaf: 2.0**20 * leaf, jax.grad(inner)(root, psi, *train))


def optimistix_adjoint(problem: Problem, reference: Reference) -> Contestant:
    """`ImplicitAdjoint` with lineax's CG, told the steps: its tolerance is another quantity."""
    import lineax as lx
    import optimistix as optx

    inner, outer = jax_losses(problem)
    solver = lx.CG(rtol=0.0, atol=0.0, stabilise_every=None, max_steps=reference.steps)
    adjoint, tags = optx.ImplicitAdjoint(solver), frozenset({lx.positive_semidefinite_tag})

    def gradient(theta, psi, train, validation):
        def through(psi):
            inputs = (psi, theta, train, inner)
            root, _ = adjoint.apply(_optimistix_root, _optimistix_condition, inputs, tags)
            return outer(root, psi, *validation)

        return jax.grad(through)(psi)

    return compiled(gradient, *arrays(problem, np.float32))


def _tensors(problem):
    """theta, psi with gradients; training and validation data."""
    theta = tuple(to_torch(leaf).requires_grad_() for leaf in problem.theta)
    psi = to_torch(problem.psi).requires_grad_()
    return theta, psi, tuple(map(to_torch, problem.train)), tuple(map(to_torch, problem.validation))


def torchopt_root(problem: Problem, reference: Reference) -> Contestant:
    """`custom_root` with `solve_cg`."""
    import torch
    from torchopt.diff.implicit import custom_root
    from torchopt.linear_solve import solve_cg

    theta, psi, train, validation = _tensors(problem)
    ops = torch_ops()

    def optimality(theta, psi):
        return torch.func.grad(lambda t: problem.inner(ops, t, psi, *train))(theta)

    solve = solve_cg(rtol=reference.rtol, maxiter=MAX_STEPS)
    root = custom_root(optimality, argnums=1, solve=solve)(lambda theta, psi: theta)

    def call():
        loss = problem.outer(ops, root(theta, psi), *validation)
        return torch.autograd.grad(loss, psi)[0]

    return Contestant(call)


def betty(problem: Problem, reference: Reference, method: str) -> Contestant:
    """The function behind `Config(type=method)`, without the engine and its training loop."""
    import torch
    from betty.hypergradient import jvp_fn_mapping

    theta, psi, train, validation = _tensors(problem)
    ops, apply = torch_ops(), jvp_fn_mapping[method]
    settings = {f"{method}_iterations": reference.steps}
    alpha = {"cg_alpha": 1.0, "neumann_alpha": 1 / reference.curvature}
    lower = SimpleNamespace(
        paths=[],
        config=SimpleNamespace(**settings, **alpha),
        cur_batch=train,
        training_step_exec=lambda batch: problem.inner(ops, theta, psi, *batch),
        trainable_parameters=lambda: theta,
        parameters=lambda: theta,
    )
    upper = SimpleNamespace(trainable_parameters=lambda: (psi,))

    def call():
        g = torch.autograd.grad(problem.outer(ops, theta, *validation), theta)
        return apply(g, lower, upper, False)[0]

    return Contestant(call)


def hypergrad_cg(problem: Problem, reference: Reference) -> Contestant:
    from hypergrad.approx_hypergrad import conjugate_gradient

    theta, psi, train, validation = _tensors(problem)
    theta, psi, ops = tuple(t.detach() for t in theta), psi.detach(), torch_ops()

    def inner(theta, psi):
        return problem.inner(ops, theta, psi[0], *train)

    def outer(theta, psi):
        return problem.outer(ops, theta, *validation) + 0 * psi[0].sum()

    return Contestant(
        lambda: conjugate_gradient(inner, outer, theta, (psi,), reference.steps, 1.0)[0]
    )


@dataclass(frozen=True)
class Peer:
    make: Callable[[Problem, Reference], Contestant]
    module: str
    distribution: str


PEERS = {
    "jaxopt": Peer(jaxopt_root, "jaxopt", "jaxopt"),
    "optimistix": Peer(optimistix_adjoint, "optimistix", "optimistix"),
    "torchopt": Peer(torchopt_root, "torchopt", "torchopt"),
    "betty_cg": Peer(partial(betty, method="cg"), "betty", "betty-ml"),
    "betty_neumann": Peer(partial(betty, method="neumann"), "betty", "betty-ml"),
    "hypergrad": Peer(hypergrad_cg, "hypergrad", "hypergrad"),
}


def contestants(problem, reference, peers) -> dict[str, Callable[[], Contestant]]:
    made = {
        "bilevel": partial(ours, problem, reference, False),
        "bilevel, jit": partial(ours, problem, reference, True),
    }
    return made | {name: partial(PEERS[name].make, problem, reference) for name in peers}


# The measurement.


def measure(problem: Problem, reference: Reference, peers, turns: int) -> list[dict[str, Any]]:
    rows, running = [], {}
    for name, make in contestants(problem, reference, peers).items():
        try:
            row, call = enter(name, make, reference)
        except Exception as error:
            print(f"  {name} failed: {type(error).__name__}: {str(error)[:200]}")
            continue
        rows.append(row)
        running[name] = call
    counts = {name: calls_a_turn(call) for name, call in running.items()}
    times = {name: [] for name in running}
    for _ in range(turns):
        for name, call in running.items():
            times[name].append(seconds_a_call(call, counts[name]))
    for row in rows:
        row["milliseconds"] = 1e3 * median(times[row["contestant"]])
    base = min(row["milliseconds"] for row in rows if row["contestant"].startswith("bilevel"))
    return [row | {"ratio": row["milliseconds"] / base} for row in rows]


def enter(name, make, reference):
    jax.clear_caches()  # so that each pays for all that it compiles
    gc.collect()
    start = time.perf_counter()
    contestant = make()
    found = contestant.call()
    first = time.perf_counter() - start
    found = np.asarray(found if isinstance(found, jax.Array) else found.detach())
    error = np.linalg.norm(found - reference.grad) / np.linalg.norm(reference.grad)
    row = {
        "contestant": name,
        "error": float(error),
        "first_call_seconds": first,
        "megabytes": contestant.megabytes,
    }
    return row, contestant.call


def calls_a_turn(call) -> int:
    call()
    return max(1, min(50, int(0.1 / seconds_a_call(call, 1))))


def seconds_a_call(call, count: int) -> float:
    """The last of the other contestant's threads may still spin: rest, and run once untimed."""
    time.sleep(0.02)
    if count > 1:
        call()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def show(problem: Problem, reference: Reference, rows) -> dict[str, Any]:
    print(
        f"\n{problem.name}: {problem.size:,} parameters, psi {problem.psi.size:,}; "
        f"{reference.steps} steps, residual {reference.rtol:.1e}"
    )
    headers = ("contestant", "error", "ms", "times ours", "first call, s", "memory, MB")
    keys = ("contestant", "error", "milliseconds", "ratio", "first_call_seconds", "megabytes")
    cells = [["-" if row[key] is None else row[key] for key in keys] for row in rows]
    table(headers, cells)
    print(flush=True)
    return {
        "problem": problem.name,
        "parameters": problem.size,
        "steps": reference.steps,
        "rtol": reference.rtol,
        "rows": rows,
    }


def summary(results) -> None:
    lines = []
    for result in results:
        mine = [row for row in result["rows"] if row["contestant"].startswith("bilevel")]
        best = min(mine, key=lambda row: row["milliseconds"])
        peers = [row for row in result["rows"] if row not in mine]
        equal = [row for row in peers if row["error"] <= 2 * best["error"]] or sorted(
            peers, key=lambda row: row["error"]
        )[:1]
        if equal:
            fastest = min(equal, key=lambda row: row["milliseconds"])
            compile_time = [r["first_call_seconds"] for r in peers if r["contestant"] == "jaxopt"]
            lines.append(
                [
                    result["problem"],
                    best["contestant"],
                    best["error"],
                    fastest["contestant"],
                    fastest["error"],
                    fastest["ratio"],
                    best["first_call_seconds"] / compile_time[0] if compile_time else "-",
                ]
            )
    headers = ("problem", "ours", "error", "fastest peer", "error", "times ours", "compile/jaxopt")
    table(headers, lines)


def installed(names) -> list[str]:
    found = []
    for name in names:
        if find_spec(PEERS[name].module) is None:
            print(f"{name} is not installed: left out")
        else:
            found.append(name)
    return found


def versions(peers) -> dict[str, str]:
    found = {}
    for distribution in [PEERS[name].distribution for name in peers] + ["torch", "lineax"]:
        try:
            found[distribution] = version(distribution)
        except PackageNotFoundError:
            continue
    return found


def main():
    parser = argparse.ArgumentParser(description="One hypergradient of ours against the peers'.")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=7, help="turns of each contestant")
    parser.add_argument("--error", type=float, default=1e-3, help="of the hypergradient")
    options = parser.parse_args()
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)  # read when the first computation starts
    warnings.filterwarnings("ignore", category=FutureWarning)
    peers, results = installed(options.peers), []
    for name in options.problems:
        if name == "data_cleaning" and not (DATA / "mnist").is_dir():
            print(f"{name} is left out: BILEVEL_DATA names no folder that holds mnist")
            continue
        print(name, flush=True)
        problem, reference = solve_exactly(PROBLEMS[name](), options.error)
        rows = measure(problem, reference, peers, options.repeats)
        results.append(show(problem, reference, rows))
    summary(results)
    print(write("peers", {"settings": vars(options), "xla_flags": os.environ["XLA_FLAGS"],
                          "peers": versions(peers), "results": results}))  # fmt: skip


if __name__ == "__main__":
    main()
