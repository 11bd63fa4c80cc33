"""Every inverse Hessian: error against time and against Hessian-vector products.

    python benchmarks/inverses.py --size 500 --conditions 1e1 1e4 1e8

The Hessian is `Q diag(lambda) Q^T` with a known spectrum whose largest value is 1, so the solution
is known: eigenvalues spaced evenly in their logarithm, or twenty large ones above a cluster of
small ones. The right-hand side is `H^(1/2)` of a random vector: as a gradient at fitted parameters,
it lies where the Hessian is large.
"""

import argparse
import time
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optax
from _report import table, write
from jaxtyping import Array, Float

from bilevel import Result
from bilevel.inverse_hvp import (
    CG,
    SGD,
    AbstractInverseHVP,
    Dense,
    Identity,
    Lineax,
    Neumann,
    Nystrom,
)

STEPS = (10, 30, 100, 300, 1000)
RANKS = (10, 30, 100)
OUTCOMES = (
    "successful",
    "approximate",
    "max_steps_reached",
    "indefinite",
    "singular",
    "diverged",
    "nonfinite",
)


class Spectral(eqx.Module):
    """v -> Q (lambda * Q^T v), whose rounding, unlike a matrix's, spares small eigenvalues."""

    basis: Float[Array, "size size"]
    eigenvalues: Float[Array, " size"]

    def __call__(self, v, key=None):
        return self.basis @ (self.eigenvalues * (self.basis.T @ v))


def spectrum(kind: str, size: int, condition: float):
    if kind == "even":
        return np.logspace(0, -np.log10(condition), size)
    large = np.logspace(0, -0.5 * np.log10(condition), 20)
    return np.concatenate(
        [large, np.linspace(min(3.0, condition) / condition, 1 / condition, size - 20)]
    )


def problem(kind: str, size: int, condition: float, dtype):
    """The operator and the right-hand side, rounded to dtype, and the solution in float64."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
    values, along = spectrum(kind, size, condition), rng.normal(size=size)
    solution, g = basis @ (along / np.sqrt(values)), basis @ (along * np.sqrt(values))
    return (
        Spectral(jnp.asarray(basis, dtype), jnp.asarray(values, dtype)),
        jnp.asarray(g, dtype),
        solution,
    )


@cache
def methods(dtype) -> list[tuple[str, str, AbstractInverseHVP]]:
    """(method, setting, it), in the order of the table."""
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    momentum = optax.sgd(1.0, momentum=0.9)
    made: list[tuple[str, str, AbstractInverseHVP]] = [
        ("Identity", "", Identity()),
        ("Dense", "", Dense()),
    ]
    made += [("CG", f"{n} steps", CG(tolerance, n)) for n in STEPS]
    for rank in RANKS:
        sketch = Nystrom(rank)
        made += [
            ("CG + Nystrom", f"rank {rank}, {n} steps", CG(tolerance, n, preconditioner=sketch))
            for n in STEPS[:-1]
        ]
    made += [("Nystrom", f"rank {rank}", Nystrom(rank)) for rank in RANKS]
    made += [("Neumann", f"{n} steps", Neumann(n)) for n in STEPS]
    made += [("SGD, momentum", f"{n} steps", SGD(momentum, n)) for n in STEPS]
    for n in STEPS:
        made.append(("Lineax CG", f"{n} steps", Lineax(lx.CG(tolerance, tolerance, max_steps=n))))
    return made


@eqx.filter_jit
def solve(method, operator, g):
    return method(operator, g)


def measure(method, operator, g, solution, repeats: int) -> dict[str, Any]:
    adjoint = jax.block_until_ready(solve(method, operator, g))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(solve(method, operator, g))
        times.append(time.perf_counter() - start)
    v = np.asarray(adjoint.v, np.float64)
    return {
        "products": int(adjoint.steps) + sketched(method),
        "residual": float(adjoint.residual),
        "error": float(np.linalg.norm(v - solution) / np.linalg.norm(solution)),
        "milliseconds": 1e3 * float(np.median(times)),
        "result": outcome(adjoint.result),
    }


def sketched(method) -> int:
    """The products of a preconditioner, which `Adjoint.steps` leaves out."""
    preconditioner = getattr(method, "preconditioner", None)
    return preconditioner.rank if isinstance(preconditioner, Nystrom) else 0


def outcome(result: Result) -> str:
    return next(name for name in OUTCOMES if bool(result == getattr(Result, name)))


def main():
    parser = argparse.ArgumentParser(
        description="Error of every inverse Hessian against time and products."
    )
    parser.add_argument("--size", type=int, default=1000)
    parser.add_argument("--conditions", type=float, nargs="+", default=[1e1, 1e4, 1e8])
    parser.add_argument("--spectra", nargs="+", choices=["even", "clustered"],
                        default=["even", "clustered"])  # fmt: skip
    parser.add_argument("--dtypes", nargs="+", choices=["float32", "float64"],
                        default=["float32", "float64"])  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    results = []
    for dtype in options.dtypes:
        with jax.enable_x64(dtype == "float64"):
            for kind in options.spectra:
                for condition in options.conditions:
                    given = problem(kind, options.size, condition, dtype)
                    results.append(run(dtype, kind, condition, given, options.repeats))
    print(write("inverses", {"settings": vars(options), "results": results}))


def run(dtype, kind, condition, given, repeats: int) -> dict[str, Any]:
    operator, g, solution = given
    rows = [
        {"method": name, "setting": setting} | measure(method, operator, g, solution, repeats)
        for name, setting, method in methods(dtype)
    ]
    print(f"\n{dtype}, {kind} spectrum, condition {condition:.0e}")
    headers = ("method", "setting", "products", "residual", "error", "ms", "result")
    table(headers, [list(row.values()) for row in rows])
    return {"dtype": dtype, "spectrum": kind, "condition": condition, "rows": rows}


if __name__ == "__main__":
    main()
