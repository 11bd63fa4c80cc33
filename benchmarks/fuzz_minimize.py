"""A fuzz of `minimize`: whether what it reports is true, and whether it ends at a minimum.

    python benchmarks/fuzz_minimize.py
    python benchmarks/fuzz_minimize.py --only kernel --seeds 20 --dtypes float32

Families of small problems with random data, units of both losses, and a random start, solved by
`minimize` with its defaults. In float64 a dense Newton method then solves the inner problem at the
psi that was found, and SciPy's L-BFGS-B goes on from there with dense hypergradients, moving no
number of psi by more than 1 (not into another valley). A run is

    at the minimum   `successful`, and SciPy gains at most 1 % of all that there was to gain,
    said             anything but `successful`,
    short of it      `successful`, and SciPy gains more,
    untrue           whatever it ended in: the value is off by more than 1 % of all that.

What there was to gain counts as 1 % of the first value at least, for starts at a minimum.

Exits 1 if anything was short of it or untrue. Results: results/fuzz_minimize.json.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from _report import table, write
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize as scipy_minimize

from bilevel import Result, minimize

ROWS, FEATURES = 30, 12
WORDS = ("at the minimum", "said", "short of it", "untrue")


@dataclass(frozen=True)
class Family:
    """Losses of `(theta, psi, data)`, and where both start, by a random generator."""

    inner: Callable[[Any, Any, Any], Any]
    outer: Callable[[Any, Any, Any], Any]
    psi: Callable[[np.random.Generator], Any]
    theta: Callable[[np.random.Generator], Any]
    bounds: tuple[float, float] | None = None
    classes: bool = False


def squares(theta, psi, data):
    return jnp.mean((data["x"] @ theta - data["y"]) ** 2)


def logistic(theta, psi, data):
    return jnp.mean(jnp.logaddexp(0, -data["y"] * (data["x"] @ theta)))


def penalised(loss):
    return lambda theta, psi, data: loss(theta, psi, data) + jnp.vdot(jnp.exp(psi), theta**2)


def one_penalty(loss):
    return lambda theta, psi, data: loss(theta, psi, data) + jnp.exp(psi) * jnp.sum(theta**2)


def weighted(theta, psi, data):
    each = (data["x"] @ theta - data["y"]) ** 2
    return jnp.mean(jax.nn.sigmoid(psi) * each) + 1e-2 * jnp.sum(theta**2)


def huber(theta, psi, data):
    width = jnp.exp(psi[1])
    rest = (data["x"] @ theta - data["y"]) / width
    return width**2 * jnp.mean(jnp.sqrt(1 + rest**2) - 1) + jnp.exp(psi[0]) * jnp.sum(theta**2)


def kernel(psi, left, right):
    apart = jnp.sum((left[:, None] - right[None]) ** 2, axis=2)
    return jnp.exp(-apart * jnp.exp(-2 * psi[0]) / 2)


def kernel_inner(theta, psi, data):
    gram = kernel(psi, data["x"], data["x"])
    return theta @ gram @ theta / 2 + jnp.exp(psi[1]) * theta @ theta / 2 - data["y"] @ theta


def kernel_outer(theta, psi, data):
    return jnp.mean((kernel(psi, data["x"], data["train"]) @ theta - data["y"]) ** 2)


def near(theta, psi, data):
    return squares(theta, psi, data) + jnp.sum((theta - psi) ** 2) / 2


def predicted(theta, data):
    return jnp.tanh(data["x"] @ theta["in"]) @ theta["out"]


def network(theta, psi, data):
    sizes = jnp.stack([jnp.sum(theta["in"] ** 2), jnp.sum(theta["out"] ** 2)])
    return jnp.mean((predicted(theta, data) - data["y"]) ** 2) + jnp.vdot(jnp.exp(psi), sizes)


def network_outer(theta, psi, data):
    return jnp.mean((predicted(theta, data) - data["y"]) ** 2)


def normal(size, at: float = 0.0, by: float = 1.0):
    return lambda draw: at + by * draw.normal(size=size)


def weights(draw):
    return {"in": draw.normal(size=(FEATURES, 4)) / 3, "out": draw.normal(size=4) / 2}


zeros = normal(FEATURES, by=0.0)
FAMILIES = {
    "ridge": Family(one_penalty(squares), squares, normal((), -2), zeros),
    "ridge, a penalty each": Family(penalised(squares), squares, normal(FEATURES, -3), zeros),
    "ridge, in bounds": Family(
        penalised(squares), squares, normal(FEATURES, -3), zeros, bounds=(-5.0, 1.0)
    ),
    "logistic": Family(one_penalty(logistic), logistic, normal((), -3), zeros, classes=True),
    "logistic, a penalty each": Family(
        penalised(logistic), logistic, normal(FEATURES, -4), zeros, classes=True
    ),
    "weights of rows": Family(weighted, squares, normal(ROWS), zeros),
    "smooth absolute": Family(huber, squares, normal(2, -2), zeros),
    "kernel": Family(kernel_inner, kernel_outer, normal(2, 0.5, 0.5), normal(ROWS, by=0.0)),
    "near a start": Family(near, squares, normal(FEATURES), zeros),
    "network": Family(network, network_outer, normal(2, -4, 0.5), weights),
}


@dataclass(frozen=True)
class Arguments:
    """Settings.

    Attributes:
        seeds: problems of each family.
        dtypes: of `minimize`; the judge is in float64.
        only: families whose names hold this.
        verbose: a line for each run.
    """

    seeds: int = 10
    dtypes: tuple[str, ...] = ("float32", "float64")
    only: str = ""
    verbose: bool = False


def drawn(family: Family, seed: int, dtype: str) -> dict[str, Any]:
    """Both data sets, starts and units, the numbers those that `dtype` holds."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(2 * ROWS, FEATURES)) * np.exp(draw.normal(size=FEATURES) / 2)
    y = x[:, : FEATURES // 3].sum(1) + draw.normal(size=2 * ROWS) * np.exp(draw.normal())
    y = np.sign(y) if family.classes else y
    units = 10.0 ** draw.uniform(-4, 4, size=2)
    found = {
        "inner_data": {"x": x[:ROWS], "y": y[:ROWS], "unit": units[0]},
        "outer_data": {"x": x[ROWS:], "y": y[ROWS:], "train": x[:ROWS], "unit": units[1]},
        "psi": family.psi(draw),
        "theta": family.theta(draw),
    }
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), found)


def in_units(loss):
    return lambda theta, psi, data: data["unit"] * loss(theta, psi, data)


class Judge:
    """The outer loss and its gradient in float64, by dense Newton steps from a theta near by."""

    def __init__(self, family: Family, problem: dict[str, Any]):
        self.inner, self.outer = in_units(family.inner), in_units(family.outer)
        self.psi, self.unravel_psi = ravel_pytree(_double(problem["psi"]))
        _, self.unravel = ravel_pytree(_double(problem["theta"]))
        self.data = (_double(problem["inner_data"]), _double(problem["outer_data"]))
        self.compiled = jax.jit(self._value_and_grad)

    def _value_and_grad(self, flat_psi, flat_theta):
        def inner(theta, psi):
            return self.inner(self.unravel(theta), self.unravel_psi(psi), self.data[0])

        def outer(theta, psi):
            return self.outer(self.unravel(theta), self.unravel_psi(psi), self.data[1])

        def step(_, theta):
            gradient = jax.grad(inner)(theta, flat_psi)
            values, basis = jnp.linalg.eigh(jax.hessian(inner)(theta, flat_psi))
            values = jnp.maximum(jnp.abs(values), 1e-15 * jnp.max(jnp.abs(values)))
            move = basis @ (basis.T @ gradient / values)
            lengths = 0.5 ** jnp.arange(30.0)
            losses = jax.vmap(lambda t: inner(theta - t * move, flat_psi))(lengths)
            here = inner(theta, flat_psi)
            best = jnp.argmin(jnp.where(jnp.isnan(losses), jnp.inf, losses))
            return jnp.where(losses[best] <= here, theta - lengths[best] * move, theta)

        theta = jax.lax.fori_loop(0, 40, step, flat_theta)
        value, (by_theta, by_psi) = jax.value_and_grad(outer, (0, 1))(theta, flat_psi)
        hessian = jax.hessian(inner)(theta, flat_psi)
        adjoint = jnp.linalg.solve(hessian, by_theta)
        cross = jax.grad(lambda p: jax.grad(inner)(theta, p) @ adjoint)(flat_psi)
        return value, by_psi - cross, theta

    def __call__(self, psi, theta):
        """The value, the gradient, and theta*."""
        value, grad, theta = self.compiled(jnp.asarray(psi), jnp.asarray(theta))
        return float(value), np.asarray(grad), theta

    def lower(self, psi, theta, bounds) -> float:
        """The lowest value that SciPy finds near here."""
        kept, (least, most) = [theta], bounds or (-np.inf, np.inf)
        around = list(zip(np.maximum(psi - 1, least), np.minimum(psi + 1, most), strict=True))

        first = self(psi, theta)[0]
        met = [first]

        def evaluate(x):
            value, grad, kept[0] = self(x, kept[0])
            met.append(value)
            return value / abs(first), grad / abs(first)

        scipy_minimize(
            evaluate, psi, jac=True, method="L-BFGS-B", bounds=around, options={"maxiter": 100}
        )
        return float(np.nanmin(met))


def _double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def run(family: Family, seed: int, dtype: str) -> dict[str, Any]:
    problem = drawn(family, seed, dtype)
    with jax.enable_x64(dtype == "float64"):
        found = minimize(
            in_units(family.outer), in_units(family.inner),
            *jax.tree.map(jnp.asarray, (problem["psi"], problem["theta"])),
            inner_args=(problem["inner_data"],), outer_args=(problem["outer_data"],),
            bounds=family.bounds, throw="ignore",
        )  # fmt: skip
    with jax.enable_x64(True):
        judge = Judge(family, problem)
        psi, theta = (ravel_pytree(_double(tree))[0] for tree in (found.psi, found.theta))
        start = np.clip(judge.psi, *family.bounds) if family.bounds else judge.psi
        first, _, _ = judge(start, ravel_pytree(_double(problem["theta"]))[0])
        value, _, theta = judge(psi, theta)
        lowest = judge.lower(np.asarray(psi), theta, family.bounds)
    gained = max(first - lowest, 1e-2 * abs(first))
    return {
        "seed": seed,
        "words": str(found.result).split(">")[0].split("<")[-1].split(":")[0],
        "successful": bool(found.result == Result.successful),
        "hypergradients": found.evaluations,
        "left": (value - lowest) / gained,
        "off": abs(float(found.value) - value) / gained,
    }


def verdict(one: dict[str, Any]) -> str:
    if not one["off"] <= 1e-2:
        return "untrue"
    if not one["successful"]:
        return "said"
    return "at the minimum" if one["left"] <= 1e-2 else "short of it"


def main(arguments: Arguments) -> int:
    payload: dict[str, Any] = {"seeds": arguments.seeds, "families": {}}
    rows = []
    for name, family in FAMILIES.items():
        if arguments.only not in name:
            continue
        payload["families"][name] = kept = {}
        for dtype in arguments.dtypes:
            start = time.perf_counter()
            found = [run(family, seed, dtype) for seed in range(arguments.seeds)]
            counts = Counter(map(verdict, found))
            kept[dtype] = {"counts": {word: counts[word] for word in WORDS}, "runs": found}
            rows.append([name, dtype, *(counts[word] for word in WORDS)])
            seconds = time.perf_counter() - start
            print(f"{name}, {dtype}: {dict(counts)}, {seconds:.0f} s", flush=True)
            if arguments.verbose:
                for one in found:
                    print("   ", verdict(one), one)
        jax.clear_caches()
    print()
    table(["family", "precision", *WORDS], rows)
    if not arguments.only:
        write("fuzz_minimize", payload)
    return sum(row[-1] + row[-2] for row in rows)


if __name__ == "__main__":
    sys.exit(min(main(tyro.cli(Arguments)), 1))
