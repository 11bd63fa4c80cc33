"""Solvers of other libraries."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, Scalar

from .._inner import evaluate, value_and_grad
from .._mistakes import check_steps
from .._result import Result
from .._stationarity import inverse_unit
from .._tree import check_form, multiply, norm, wide_dtype
from .._types import PyTree
from ..problems import FixedPoint
from ..problems._base import AbstractProblem, problem_of
from ._base import AbstractMinimiser, AbstractSolver, Steps, check_tol, refuse_key


class Jaxopt(AbstractMinimiser):
    """Any unconstrained solver of jaxopt.

    jaxopt's own implicit differentiation is switched off. Needs the extra `bilevel[jaxopt]`.

    Attributes:
        solver: a jaxopt solver, e.g. `jaxopt.LBFGS(fun=None, tol=1e-6)`, whose `fun` is replaced
            by the inner loss.
        tol: a solve that ends with a gradient norm above this is reported. None: no check.

    Examples:
        ```python
        solver = Jaxopt(jaxopt.LBFGS(fun=None, maxiter=100))
        hypergradient(outer, inner, solver=solver)
        ```
    """

    solver: Any
    tol: float | None = None

    def __check_init__(self) -> None:
        check_tol(self.tol)
        is_made = dataclasses.is_dataclass(self.solver) and not isinstance(self.solver, type)
        if not (is_made and hasattr(self.solver, "run")):
            raise ValueError(
                f"solver={self.solver!r} is no solver of jaxopt: pass one, for example "
                "`jaxopt.LBFGS(fun=None)`."
            )

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        refuse_key("Jaxopt", key)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            theta, steps = _run_jaxopt(loss, self.solver, theta0)
        return Steps(theta, steps, _no_losses(theta), Result.not_judged, self.tol)


@eqx.filter_jit
def _run_jaxopt(loss, solver, theta0):
    settings: dict[str, Any] = {"fun": lambda theta: evaluate(loss, theta, None)}
    if hasattr(solver, "implicit_diff"):
        settings["implicit_diff"] = False
    found = dataclasses.replace(solver, **settings).run(theta0)
    check_form(found.params, theta0, "the jaxopt solver returned", "theta", "theta0")
    return _like(found.params, theta0), jnp.asarray(found.state.iter_num)


class Optimistix(AbstractSolver):
    """Any solver of optimistix. Needs the extra `bilevel[optimistix]`.

    Its minimisers are for losses, its root finders for roots and for `Constrained` problems, its
    fixed-point solvers for fixed points. What `optimistix.root_find` and `optimistix.fixed_point`
    take in the place of their own (a least-squares solver, a minimiser, and a root finder for a
    fixed point), they take here.

    Attributes:
        solver: for example `optimistix.BFGS(rtol=1e-6, atol=1e-6)`, which gets the loss multiplied
            by a number, so that its first gradient has a norm of 1 to 2; or
            `optimistix.Newton(rtol=1e-8, atol=1e-8)`, which gets F multiplied so; or
            `optimistix.FixedPointIteration(rtol=1e-6, atol=1e-6)`.
        max_steps: at most so many steps.
        tol: a solve that ends with a gradient norm above this is reported. None: only one that
            ends above optimistix' own tolerances.

    Examples:
        ```python
        solver = Optimistix(optimistix.BFGS(rtol=1e-6, atol=1e-6))
        hypergradient(outer, inner, solver=solver)
        root(F, solver=Optimistix(optimistix.Newton(rtol=1e-8, atol=1e-8)))
        ```
    """

    solver: Any
    max_steps: int = eqx.field(default=256, static=True)
    tol: float | None = None

    def __check_init__(self) -> None:
        check_tol(self.tol)
        check_steps(self.max_steps, "max_steps")
        if isinstance(self.solver, type):
            name = self.solver.__name__
            raise ValueError(
                f"solver={name} is a class: pass an instance, `{name}(rtol=1e-6, atol=1e-6)`."
            )

    def purpose(self) -> str:
        kinds = _kinds()
        names = ("fixed points", "minima", "roots", "least squares")
        found = [name for name, kind in zip(names, kinds, strict=True) if _is(self.solver, kind)]
        name = type(self.solver).__name__
        return f"{found[0] if found else 'nothing'} (by optimistix's {name})"

    def suits(self, inner: Callable[..., Any]) -> bool:
        fixed, minimiser, root, squares = (_is(self.solver, kind) for kind in _kinds())
        if not isinstance(inner, AbstractProblem):
            return minimiser
        return minimiser or root or squares or (fixed and isinstance(inner, FixedPoint))

    def solve(
        self, loss: Callable[..., Scalar], theta0: PyTree[Array], key: PRNGKeyArray | None
    ) -> Steps:
        refuse_key("Optimistix", key)
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            problem = problem_of(loss)
            settings = (self.solver, theta0, self.max_steps)
            found = (
                _minimise(loss, *settings) if problem is None else _find(problem, loss, *settings)
            )
        theta, steps, result = found
        return Steps(theta, steps, _no_losses(theta), result, self.tol)


def _kinds():
    import optimistix

    return (
        optimistix.AbstractFixedPointSolver,
        optimistix.AbstractMinimiser,
        optimistix.AbstractRootFinder,
        optimistix.AbstractLeastSquaresSolver,
    )


def _is(solver, kind) -> bool:
    return isinstance(solver, kind)


@eqx.filter_jit
def _minimise(loss, solver, theta0, max_steps):
    import optimistix

    # Its tolerances are those of a loss whose first gradient has norm 1.
    _, gradient = value_and_grad(loss, theta0, None)
    unit = inverse_unit(norm(gradient))
    found = optimistix.minimise(
        lambda theta, _: unit * evaluate(loss, theta, None),
        solver,
        theta0,
        max_steps=max_steps,
        throw=False,
    )
    return _reported(found, theta0)


@eqx.filter_jit
def _find(problem, loss, solver, theta0, max_steps):
    import optimistix

    given, is_fixed = problem.given(loss), isinstance(problem, FixedPoint)
    settings = {"max_steps": max_steps, "throw": False}
    if is_fixed:
        found = optimistix.fixed_point(lambda theta, _: given(theta), solver, theta0, **settings)
        return _reported(found, theta0)
    # Its tolerances are those of an F that is 1 at the start.
    unit = inverse_unit(norm(given(theta0)))
    found = optimistix.root_find(
        lambda theta, _: multiply(given(theta), unit), solver, theta0, **settings
    )
    return _reported(found, theta0)


def _reported(found, theta0):
    import optimistix

    solved = found.result == optimistix.RESULTS.successful
    result = Result.where(solved, Result.successful, Result.not_stationary)
    return _like(found.value, theta0), jnp.asarray(found.stats["num_steps"]), result


def _like(theta: PyTree, theta0: PyTree) -> PyTree:
    return jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), theta, theta0)


def _no_losses(theta):
    return jnp.zeros((0,), wide_dtype(theta))
