"""One call of `fuzz.py`, and its verdict."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _fuzz_methods import inverses, proximal_solvers, solvers
from _fuzz_problems import Form, Problem, shaped
from _fuzz_reference import Reference, operator_of
from _report import PACKAGES

import bilevel
from bilevel import Result, hypergradient

Call = dict[str, Any]
TOLERANCE = 1e-2
NO_FAILURE = ("successful", "approximate", "not_judged")
EXACT = "callable, exact"


def pairs(form: Form, dtype: str, extra: int, *, quick: bool = False) -> list[tuple[str, str]]:
    """(solver, inverse) for every problem of a form: both columns, and a sample of the rest.

    `quick`: every other inverse Hessian, and no sample.
    """
    known = list(inverses(1.0))
    if form.constraint:
        names = list(proximal_solvers(form.constraint))
        exact = names[0]
    else:
        names, exact = list(solvers(1.0, dtype)), EXACT
    chosen = [(name, "CG") for name in names] + [(exact, i) for i in known if i != "CG"]
    if quick:
        return chosen[: len(names)] + chosen[len(names) :: 2]
    rest = [(s, i) for s in names for i in known if (s, i) not in chosen]
    sample = np.random.default_rng(list(f"{form.name} {dtype}".encode()))
    return chosen + [rest[i] for i in sample.choice(len(rest), extra, replace=False)]


class Caller:
    """Calls of one problem in one precision and unit.

    `programs` are those that problems of one form share; None: calls are not compiled as a whole.
    """

    def __init__(self, problem: Problem, dtype: str, unit: float, programs: dict | None):
        self.problem, self.dtype, self.unit, self.programs = problem, dtype, unit, programs
        with jax.enable_x64(True):
            self.reference = Reference(problem, dtype, unit)
        self.rate = self._cast(1 / (1.05 * self.reference.curvature))
        self.theta = self._cast(shaped(problem.form.theta, self.reference.theta))
        self.arguments = (
            self._cast(problem.psi),
            self._cast(problem.theta0),
            self._cast(problem.inner | {"unit": np.asarray(unit)}),
            self._cast(problem.outer),
        )
        self.rights: dict[Any, Any] = {}

    def _cast(self, tree):
        def cast(leaf):
            return leaf if callable(leaf) else jnp.asarray(np.asarray(leaf, self.dtype))

        return jax.tree.map(cast, tree)

    def __call__(self, solver: str, inverse: str) -> Call:
        damping, make_inverse = inverses(self.unit)[inverse]
        call = {"solver": solver, "inverse": inverse}
        try:
            methods = self._solver(solver), make_inverse(self.rate)
            h = jax.block_until_ready(self._hypergradient(methods, (solver, inverse)))
        except Exception as error:  # it counts as said, and is shown
            return call | {"raised": f"{type(error).__name__}: {error}"[:200]}
        with jax.enable_x64(True):
            right = self._right(_numbers(h.theta), damping)
        error = float(np.linalg.norm(_numbers(h.grad) - right.grad) / max(right.scale, 1e-300))
        return call | {
            "error": error if np.isfinite(error) else 1e300,
            "inner": outcome(h.inner.result),
            "adjoint": outcome(h.adjoint.result),
            "kind": right.kind,
        }

    def _solver(self, name):
        constraint = self.problem.form.constraint
        if constraint:
            operator = self._cast(operator_of(self.problem, self.unit))
            return proximal_solvers(constraint)[name](self.rate, operator)
        return solvers(self.unit, self.dtype)[name](self.rate, self.theta)

    def _hypergradient(self, methods, key):
        if self.programs is None:
            return _compute(self.problem.form, methods, *self.arguments)
        arrays, static = eqx.partition(methods, eqx.is_array)
        if key not in self.programs:
            self.programs[key] = _compiled(self.problem.form, static)
        return self.programs[key](arrays, *self.arguments)

    def _right(self, theta, damping):
        """Once for a convex problem; where there are several minima, for each theta."""
        key = damping if self.problem.convex else (damping, theta.tobytes())
        if key not in self.rights:
            self.rights[key] = self.reference.right(theta, damping)
        return self.rights[key]


def _compute(form, methods, psi, theta0, inner_data, outer_data):
    solver, inverse = methods
    compute = hypergradient(
        form.outer, form.inner, solver=solver, inverse_hvp=inverse, throw="ignore"
    )
    return compute(psi, theta0, inner_args=(inner_data,), outer_args=(outer_data,))


def _compiled(form, static):
    return eqx.filter_jit(lambda arrays, *args: _compute(form, eqx.combine(arrays, static), *args))


def _numbers(tree):
    return np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])


def outcome(result: Result) -> str:
    """The name of a result, whatever names there are."""
    named = Result._name_to_item.items()  # equinox has no public list of them
    return {Result[item]: name for name, item in named}[Result[result]]


def verdict(call: Call) -> str:
    """right, silent, raised, or said; what was said and is right: alarm (a failure) or hedged."""
    if "raised" in call:
        return "raised"
    close = call["error"] <= TOLERANCE
    said = {call["inner"], call["adjoint"]} - {"successful"}
    if not said:
        return "right" if close else "silent"
    if not close:
        return "said"
    return "hedged" if said <= set(NO_FAILURE) else "alarm"


@cache
def digest() -> str:
    """Of the sources of toolkit and fuzz, and of what they run on."""
    here = Path(__file__).parent
    files = [*Path(bilevel.__file__).parent.rglob("*.py"), *here.glob("*fuzz*.py")]
    used = " ".join(version(package) for package in (*PACKAGES, "lineax", "jaxopt", "optimistix"))
    text = b"".join(file.read_bytes() for file in sorted(files))
    return hashlib.sha256(text + used.encode()).hexdigest()[:12]
