"""The hypergradient: the derivative of an outer loss at the solution of an inner problem."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
from jaxtyping import PRNGKeyArray, PyTree, Scalar

from ._condition import AbstractCondition, mixed_vjp, spec_of_loss
from ._inner import InnerLoss, as_arrays, check_scalar
from ._loops import loops_slowly
from ._result import Throw, act_on, check_throw, worst
from ._tree import negative, split_key
from .inverse_hvp import CG, AbstractInverseHVP, Adjoint
from .solvers import AbstractSolver, InnerRecord
from .solvers._base import as_solver, find, record


class Hypergradient(eqx.Module):
    """A hypergradient, its parts, and how far it can be trusted.

    Attributes:
        value: the outer loss at theta*; a scalar.
        aux: what `outer` returned beside its value (None without `has_aux`).
        theta: theta*, the solution of the inner problem, shaped like theta0.
        direct: the partial derivative of the outer loss with respect to psi, shaped like psi.
        implicit: the part that goes through theta*, shaped like psi.
        grad: their sum. None stands at leaves of psi that are not floating-point arrays.
        inner: the inner solver's record: steps, losses, gradient norm at theta*, result.
        adjoint: the adjoint solve: v = H^-1 g, relative residual, steps, result.
    """

    value: Scalar
    aux: Any
    theta: PyTree
    direct: PyTree
    implicit: PyTree
    inner: InnerRecord
    adjoint: Adjoint

    @property
    def grad(self) -> PyTree:
        return optax.tree.add(self.direct, self.implicit)


def hypergradient(
    outer: Callable,
    inner: Callable,
    *,
    solver: AbstractSolver | Callable,
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    throw: Throw = "raise",
) -> Callable[..., Hypergradient]:
    """A function that computes `d outer(theta*(psi), psi) / d psi` by implicit differentiation.

    With `theta* = argmin inner(., psi)`, `H` its Hessian in theta and `g = d outer / d theta`,

        v = H^-1 g
        d outer / d psi  =  d outer / d psi |theta*  -  d/d psi <d inner / d theta, v>
                            ('direct')                  ('implicit')

    (equation 1 of the RCIG paper, whose text has a plus for the minus).

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar; called with `key=` where one is given.
            theta and psi are any pytree, Equinox modules included; their floating-point arrays
            are what is solved for and differentiated.
        solver: how theta* is found: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: how H^-1 g is applied: one of `bilevel.inverse_hvp`; `CG()` if None.
        has_aux: whether `outer` returns `(scalar, aux)`.
        throw: "raise" or "warn" where a solve failed, or "ignore" it and read the results.

    Returns:
        `fn(psi, theta0, *, outer_args=(), inner_args=(), key=None, v0=None)`, which returns a
        `Hypergradient`. `key` makes the inner loss stochastic: a fresh key at each solver step and
        each Hessian-vector product. `v0` warm-starts the adjoint: the `adjoint.v` of an earlier
        call.

    Raises:
        ValueError: arguments that cannot work, before anything is solved.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy. Under
            `jax.jit` it comes at run time, with the message at the end of a long traceback;
            `equinox.filter_jit` makes it a shorter one.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import hypergradient
        >>> from bilevel.solvers import Newton
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> h = hypergradient(outer, inner, solver=Newton())(jnp.array([1.0, 2.0]), jnp.zeros(2))
        >>> h.grad
        Array([2.00, 4.00], dtype=float32)
        >>> bool(h.adjoint.residual < 1e-5)
        True
    """
    check_throw(throw)
    inner_solver = as_solver(solver)
    inverse = CG() if inverse_hvp is None else inverse_hvp

    def compute(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple = (),
        inner_args: tuple = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> Hypergradient:
        psi = as_arrays(psi, "psi")
        theta0 = as_arrays(theta0, "theta0")
        start, static = eqx.partition(theta0, eqx.is_inexact_array)
        loss = InnerLoss(inner, static, psi, tuple(inner_args))
        solver_key, *keys = split_key(key, 4)
        v0 = None if v0 is None else eqx.filter(v0, eqx.is_inexact_array)
        steps = find(inner_solver, loss, start, solver_key)
        condition = inner_solver.condition(loss)
        # One program, but for what has to be dispatched step by step.
        whole = inverse.traceable and not loops_slowly(_residual, condition, steps.theta, keys[0])
        differentiate = _differentiate_whole if whole else _differentiate
        h = differentiate(
            condition, steps, static, outer, has_aux, tuple(outer_args), inverse, v0, keys
        )
        result = worst(h.inner.result, h.adjoint.result)
        value, implicit = act_on(result, throw, (h.value, h.implicit))
        return eqx.tree_at(lambda h: (h.value, h.implicit), h, (value, implicit))

    return compute


def _differentiate(condition, steps, static, outer, has_aux, outer_args, inverse, v0, keys):
    """All that follows once theta* is found."""
    record_key, adjoint_key, mixed_key = keys
    theta, psi = steps.theta, condition.loss.psi
    *at_theta, jacobian = condition.linearize(theta, record_key, rederive=inverse.rederive)
    (value, aux), (g, direct) = _outer(outer, has_aux, theta, static, psi, outer_args)
    adjoint = inverse(jacobian.T, g, v0=v0, key=adjoint_key)
    mixed = mixed_vjp(condition, _in_psi(condition), theta, adjoint.v, mixed_key)
    whole_theta, implicit = eqx.combine(theta, static), negative(mixed).loss.psi
    inner = record(steps, *at_theta)
    return Hypergradient(value, aux, whole_theta, direct, implicit, inner, adjoint)


_differentiate_whole = eqx.filter_jit(_differentiate)


def _residual(condition, theta, key):
    return condition.value_and_residual(theta, key)[1]


def _in_psi(condition: AbstractCondition) -> AbstractCondition:
    loss = condition.loss
    nothing = jax.tree.map(lambda _: False, loss)
    spec = eqx.tree_at(lambda at: at.psi, nothing, jax.tree.map(eqx.is_inexact_array, loss.psi))
    return spec_of_loss(condition, spec)


@eqx.filter_jit
def _outer(outer, has_aux, theta, static, psi, args):
    def of(differentiated):
        theta, psi = differentiated
        out = outer(eqx.combine(theta, static), psi, *args)
        value, aux = out if has_aux else (out, None)
        check_scalar(value, "outer")
        return value, aux

    return eqx.filter_value_and_grad(of, has_aux=True)((theta, psi))


def implicit_value_and_grad(
    outer: Callable,
    inner: Callable,
    *,
    solver: AbstractSolver | Callable,
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    throw: Throw = "raise",
) -> Callable[..., tuple[Any, PyTree]]:
    """As `hypergradient`; the function returns `(value, grad)`, or `((value, aux), grad)`."""
    compute = hypergradient(
        outer, inner, solver=solver, inverse_hvp=inverse_hvp, has_aux=has_aux, throw=throw
    )

    def value_and_grad(psi: PyTree, theta0: PyTree, **kwargs):
        h = compute(psi, theta0, **kwargs)
        return ((h.value, h.aux) if has_aux else h.value), h.grad

    return value_and_grad


def implicit_grad(
    outer: Callable,
    inner: Callable,
    *,
    solver: AbstractSolver | Callable,
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    throw: Throw = "raise",
) -> Callable[..., Any]:
    """As `hypergradient`; the function returns `grad`, or `(grad, aux)` with `has_aux`."""
    compute = hypergradient(
        outer, inner, solver=solver, inverse_hvp=inverse_hvp, has_aux=has_aux, throw=throw
    )

    def grad(psi: PyTree, theta0: PyTree, **kwargs):
        h = compute(psi, theta0, **kwargs)
        return (h.grad, h.aux) if has_aux else h.grad

    return grad
