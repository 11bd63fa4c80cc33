"""The hypergradient: the derivative of an outer loss at the solution of an inner problem."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import eval_jaxpr
from jaxtyping import PRNGKeyArray

from ._closures import detached, holds_tracers, put_back
from ._differences import by_differences, without_derivative
from ._implicit import as_it_is, attach, invert, moving, warn_of_unused_psi
from ._inner import (
    InnerLoss,
    as_arrays,
    check_args,
    check_callable,
    check_scalar,
)
from ._jaxpr import holds_primitive
from ._mistakes import OUTER, call
from ._point import primal
from ._record import Hypergradient
from ._result import Result, Throw, act_on, check_throw, failed, worst
from ._stationarity import amend, exceeds, judge
from ._traced_loss import traced_now
from ._tree import negative, split_key
from ._types import PyTree
from .functions import HypergradientFn, _described
from .inverse_hvp import AbstractInverseHVP, FiniteDifference
from .inverse_hvp._base import as_inverse
from .problems._base import AbstractProblem, begin, inverse_for
from .problems._condition import AbstractCondition, mixed_vjp, value_and_residual
from .solvers import AbstractSolver, InnerRecord
from .solvers._base import as_solver, completed, find, record


def hypergradient(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    inner_has_aux: bool = False,
    throw: Throw = "raise",
) -> HypergradientFn:
    """A function that computes `d outer(theta*(psi), psi) / d psi` by implicit differentiation.

    With `theta* = argmin inner(., psi)`, `H` its Hessian in theta and `g = d outer / d theta`,

        v = H^-1 g
        d outer / d psi  =  d outer / d psi |theta*  -  d/d psi <d inner / d theta, v>
                            ('direct')                  ('implicit')

    (equation 1 of the RCIG paper, whose text has a plus for the minus).

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar; called with `key=` where one is given.
            Or one of `bilevel.problems`, whose residual and Jacobian take the place of the inner
            gradient and of H, which is transposed in the first equation. theta and psi are any
            pytree, Equinox modules included; their floating-point arrays are what is solved for
            and differentiated.
        solver: how theta* is found: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: how H^-1 g is applied: one of `bilevel.inverse_hvp`. None: `CG()`, `Dense()`
            for a `Constrained` problem, and what suits the size of a `Root` or a `FixedPoint`
            (see `root`).
        has_aux: whether `outer` returns `(scalar, aux)`.
        inner_has_aux: whether `inner` returns `(scalar, aux)`: statistics of a batch, for example.
            What it returns at theta* stands in the record, `inner.aux`.
        throw: "raise" or "warn" where a solve failed, or "ignore" it and read the results.

    Returns:
        A function `hypergradient_at(psi, theta0, *, outer_args=(), inner_args=(), key=None,
        v0=None)`, which returns a `Hypergradient`; `help` of it says what each argument is. `key`
        makes the inner loss stochastic: a fresh key at each solver step and each Hessian-vector
        product. `v0` warm-starts the adjoint: the `adjoint.v` of an earlier call.

    Raises:
        ValueError: arguments that cannot work, before anything is solved.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy. Under
            `jax.jit` it comes at run time, with the message as its last line.

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
    check_callable(outer, "outer")
    check_callable(inner, "inner")
    inner_solver, inverse = as_solver(solver, inner), as_inverse(inverse_for(inner, inverse_hvp))
    if isinstance(inverse, FiniteDifference) and isinstance(inner, AbstractProblem):
        raise ValueError(
            f"inverse_hvp=FiniteDifference() adds the outer loss to an inner loss, and inner is a "
            f"{type(inner).__name__}: pass Dense() or CG()."
        )

    @_described(HypergradientFn, "hypergradient_at")
    def compute(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> Hypergradient:
        psi, theta0 = as_arrays(psi, "psi"), as_arrays(theta0, "theta0")
        check_args(outer_args, "outer_args")
        check_args(inner_args, "inner_args")
        start, static = eqx.partition(theta0, eqx.is_inexact_array)
        loss = InnerLoss(inner, static, psi, tuple(inner_args), {}, inner_has_aux)
        loss, start = begin(loss, start)
        keys = split_key(key, 4)
        v0 = None if v0 is None else eqx.filter(v0, eqx.is_inexact_array)
        problem = _Problem(outer, has_aux, tuple(outer_args), static)
        given = (psi, start, loss.args, problem, keys, v0, inner, inner_solver, inverse)
        traced = holds_tracers(*given)
        if not traced:
            loss = as_it_is(loss, inner_solver, start, keys[0])
            problem = problem.as_it_is(start, psi)
        if isinstance(inverse, FiniteDifference):
            h = _without_hessian(loss, start, inner_solver, problem, inverse, keys)
        elif traced:
            h = _traced(loss, start, inner_solver, problem, detached(inverse), keys, v0, throw)
        else:
            h, silent = _computed(loss, start, inner_solver, problem, inverse, keys, v0)
            if bool(silent):
                warn_of_unused_psi(inner_solver.condition(loss))
        result = worst(h.inner.result, h.adjoint.result)
        value, implicit = act_on(result, throw, (h.value, h.implicit))
        return eqx.tree_at(lambda h: (h.value, h.implicit), h, (value, implicit))

    return compute


class _Problem(eqx.Module):
    """The outer loss, and what it takes beside theta and psi."""

    outer: Callable[..., Any]
    has_aux: bool = eqx.field(static=True)
    args: tuple[Any, ...]
    theta_static: PyTree

    def value_and_aux(self, theta, psi):
        whole = eqx.combine(primal(theta), self.theta_static)
        out = call(self.outer, OUTER, whole, psi, *self.args)
        value, aux = out if self.has_aux else (out, None)
        check_scalar(value, "outer")
        return value, aux

    def as_it_is(self, theta, psi) -> "_Problem":
        theta = eqx.combine(primal(theta), self.theta_static)
        outer = traced_now(self.outer, OUTER, theta, psi, *self.args)
        return dataclasses.replace(self, outer=outer)


def _computed(loss, start, solver, problem, inverse, keys, v0):
    """The hypergradient, and whether all of its implicit part is 0 though the adjoint is not."""
    steps = find(solver, loss, start, keys[0])
    condition = solver.condition(loss)
    return _in_one(condition, steps, start, problem, inverse, v0, keys[1:], "ignore")


def _without_hessian(loss, start, solver, problem, how, keys):
    given = loss, start, solver, problem
    loss, start, solver, problem = without_derivative(given)
    steps = find(solver, loss, start, keys[0])
    theta = steps.theta
    value, residual = value_and_residual(solver.condition(loss), theta, keys[1])
    (outer_value, aux), (g, direct) = _outer(problem, theta, loss.psi)
    outer = problem.outer, problem.args, problem.has_aux
    pair = keys[0], keys[3]
    adjoint, implicit = by_differences(loss, solver, steps, outer, g, how, pair)
    judged = judge(
        residual, adjoint.v, g, None, outer_value, theta, start, steps.inverse_curvature, True
    )
    inner = record(steps, value, residual)
    inner = _amended(inner, judged, steps, adjoint, stochastic=keys[0] is not None)
    inner = completed(inner, solver.condition(loss), theta, keys[1])
    theta = eqx.combine(theta, problem.theta_static)
    return Hypergradient(outer_value, aux, theta, direct, implicit, inner, adjoint, judged.change)


def _traced(loss, start, solver, problem, inverse, keys, v0, throw):
    """The same where it may be differentiated: with the derivative rule of the solution."""
    moved = moving(loss, solver, start, keys[0])
    warn_of_unused_psi(moved.condition())
    fixed = detached(moved)
    steps = find(put_back(fixed.solver, fixed.held), fixed.loss, fixed.start, keys[0])
    steps = detached(steps)
    theta = attach(moved, steps.theta, keys[1:], inverse, throw, forward_mode=True)
    steps = eqx.tree_at(lambda at: at.theta, steps, theta)
    condition = moved.condition()
    start, v0 = fixed.start, detached(v0)
    early = None if throw == "raise" else "ignore"
    return _in_one(condition, steps, start, problem, inverse, v0, keys[1:], early)[0]


def _in_one(condition, steps, start, problem, inverse, v0, keys, throw):
    """One program, but for what has to be dispatched step by step."""
    whole = inverse.traceable and not condition.loops_slowly(steps.theta, keys[0])
    differentiate = _differentiate_whole if whole else _differentiate
    return differentiate(condition, steps, start, problem, inverse, v0, keys, throw)


def _differentiate(condition, steps, start, problem, inverse, v0, keys, throw):
    """All that follows once theta* is found."""
    record_key, adjoint_key, mixed_key = keys
    theta, loss = steps.theta, condition.loss
    value, residual, jacobian = condition.linearize(theta, record_key, rederive=inverse.rederive)
    (outer_value, aux), (g, direct) = _outer(problem, theta, loss.psi)
    adjoint = invert(jacobian.T, g, inverse, throw, v0=v0, key=adjoint_key)
    moving, rest = eqx.partition(loss.psi, eqx.is_inexact_array)
    implicit = mixed_vjp(_at_psi, moving, (rest, condition), theta, adjoint.v, mixed_key)
    implicit = negative(implicit)
    inner = record(steps, value, residual)
    judged = judge(
        residual,
        adjoint.v,
        g,
        _bend(problem, theta, loss.psi, adjoint.v),
        outer_value,
        primal(theta),
        primal(start),
        steps.inverse_curvature,
        jacobian.symmetric,
    )
    inner = _amended(inner, judged, steps, adjoint, stochastic=adjoint_key is not None)
    inner = completed(inner, condition, theta, record_key)
    degenerate = condition.degenerate(theta)
    if degenerate is not None:
        kink = Result.where(degenerate, Result.degenerate, Result.successful)
        inner = eqx.tree_at(lambda at: at.result, inner, worst(inner.result, kink))
    silent = _is_zero(implicit) & ~_is_zero(adjoint.v)
    h = Hypergradient(
        outer_value,
        aux,
        eqx.combine(primal(theta), problem.theta_static),
        direct,
        implicit,
        inner,
        adjoint,
        judged.change,
    )
    return h, silent


_differentiate_whole = eqx.filter_jit(_differentiate)


def _amended(inner, judged, steps, adjoint, *, stochastic) -> InnerRecord:
    result = inner.result
    if stochastic:  # noise is no gradient to judge by
        vague = result == Result.successful
        result = Result.where(vague, Result.not_judged, result)
    else:
        by_tol = False if steps.tol is None else exceeds(inner.gradient_norm, steps.tol)
        amended = amend(result, judged, jnp.asarray(by_tol))
        result = Result.where(failed(adjoint.result), result, amended)
    distance = judged.distance
    return eqx.tree_at(
        lambda at: (at.result, at.distance), inner, (result, distance), is_leaf=_is_none
    )


def _is_none(x) -> bool:
    return x is None


def _is_zero(tree):
    return jnp.all(jnp.stack([jnp.all(leaf == 0) for leaf in jax.tree.leaves(tree)]))


def _at_psi(moving, fixed) -> AbstractCondition:
    rest, condition = fixed
    return eqx.tree_at(lambda at: at.loss.psi, condition, eqx.combine(moving, rest))


@eqx.filter_jit
def _bend(problem, theta, psi, v):
    """The Hessian of the outer loss in theta times v."""

    def gradient(theta):
        return jax.grad(lambda t: problem.value_and_aux(t, psi)[0])(theta)

    def along(v):
        return jax.jvp(gradient, (theta,), (v,))[1]

    closed, form = jax.make_jaxpr(along, return_shape=True)(v)
    if holds_primitive("custom_lin", closed):  # a derivative rule that has no forward mode
        return None
    found = eval_jaxpr(closed.jaxpr, closed.consts, *jax.tree.leaves(v))
    return jax.tree.unflatten(jax.tree.structure(form), found)


@eqx.filter_jit
def _outer(problem, theta, psi):
    def of(differentiated):
        return problem.value_and_aux(*differentiated)

    return eqx.filter_value_and_grad(of, has_aux=True)((theta, psi))
