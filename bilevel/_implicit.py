"""The derivative rule of a solution, and the linear solve that it consists of.

The solver runs on detached inputs, so that whatever it does on the way is not differentiated;
`attach` then gives the solution that it found the derivative of the implicit function theorem.
"""

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PRNGKeyArray

from ._closures import detached, put_back, take_tracers
from ._inner import InnerLoss, Params, strongly_typed
from ._loops import holds
from ._mistakes import INNER
from ._operator import AbstractOperator
from ._point import primal
from ._result import Result, Throw, act_on, failed
from ._stationarity import judge
from ._traced_loss import is_jit_disabled, trace_loss
from ._tree import cast, dtypes_of, negative, widen
from ._varying import vary, varying
from .inverse_hvp import AbstractInverseHVP, Adjoint
from .problems._base import over_functions, traced_functions
from .problems._condition import AbstractCondition, mixed_vjp
from .solvers import AbstractSolver


class Moving(eqx.Module):
    """What a solution depends on, and theta0, on which it does not.

    `solver` has slots for the tracers in `held`: a projection may close over some.
    """

    loss: InnerLoss
    solver: AbstractSolver
    held: list[Array]
    start: Params

    def condition(self) -> AbstractCondition:
        return put_back(self.solver, self.held).condition(self.loss)


def moving(loss: InnerLoss, solver: AbstractSolver, start: Params, key) -> Moving:
    """What the solution depends on, with the tracers of `inner` and `solver` as leaves."""
    kwargs = loss.kwargs if key is None else loss.kwargs | {"key": key}

    def trace(start):
        theta0 = eqx.combine(primal(start), loss.theta_static)
        return over_functions(
            loss.inner,
            lambda function: trace_loss(function, INNER, theta0, loss.psi, *loss.args, **kwargs),
        )

    traced = trace(start)
    axes = [function.varying(loss.has_aux) for function in traced_functions(traced)]
    axes = frozenset().union(*axes)
    if axes - varying(start):
        # A theta that is the same on all devices has the sum of their gradients.
        start = vary(start, axes)
        traced = trace(start)
    skeleton, held = take_tracers(solver)
    closed = eqx.tree_at(lambda at: at.inner, loss, strongly_typed(traced))
    return Moving(closed, skeleton, held, start)


def as_it_is(loss: InnerLoss, solver: AbstractSolver, start: Params, key) -> InnerLoss:
    """The loss as the program that its functions now are, with what they close over as arguments.

    jit would keep what a global or an attribute was when it met a function first.
    """
    if is_jit_disabled():
        return loss
    try:
        return moving(loss, solver, start, key).loss
    except ValueError:
        if key is None:
            raise
        return loss  # a solver that refuses keys says so better


def attach(
    moved: Moving,
    theta: Params,
    keys: tuple[Any, ...],
    inverse: AbstractInverseHVP,
    throw: Throw,
    *,
    forward_mode: bool,
) -> Params:
    """`theta`, which solves the condition of `moved`, with its derivative.

    In reverse mode alone the linear solve need not be traced, and is dispatched where it should.
    """
    rule = _attach if forward_mode else _attach_reverse
    try:
        return rule(moved, theta, keys, take_tracers(inverse), throw)
    except TypeError as error:
        if forward_mode or "forward-mode" not in str(error):
            raise
        raise TypeError(
            "The derivative of a solution is in reverse mode unless asked otherwise, and this is "
            "forward-mode (jax.jvp, jax.jacfwd): pass forward_mode=True to argmin, root or "
            "fixed_point."
        ) from error


def _found(moved, theta, keys, inverse, throw):
    return theta


_attach = eqx.filter_custom_jvp(_found)
_attach_reverse = eqx.filter_custom_vjp(_found)


@_attach.def_jvp
def _attach_jvp(primals, tangents):
    moved, _, keys, inverse, throw = primals
    *_, adjoint_key, mixed_key = keys
    along, *_ = tangents
    theta, inverse = _attach(*primals), put_back(*inverse)
    if jax.tree.leaves(along.start):
        _warn_of_theta0()
    nothing = jax.tree.map(lambda _: None, moved.start)
    along = eqx.tree_at(lambda at: at.start, along, nothing, is_leaf=lambda at: at is None)
    given = jax.tree.map(lambda t: t is not None, along, is_leaf=lambda t: t is None)
    differentiated, fixed = eqx.partition(moved, given)

    def residual(differentiated):
        condition = eqx.combine(differentiated, fixed).condition()
        return condition.residual(theta, mixed_key)

    if holds("custom_vjp_call", residual, differentiated):
        raise ValueError(
            "inner holds a derivative rule (custom_vjp) that has no forward mode, which this "
            "derivative of its solution needs: give it a custom_jvp, or differentiate `argmin` in "
            "reverse mode, with forward_mode=False."
        )
    _, change = jax.jvp(residual, (differentiated,), (along,))
    condition = moved.condition()
    change = _refuse_where_degenerate(condition, theta, change, throw)
    *_, jacobian = condition.linearize(theta, adjoint_key, rederive=inverse.rederive)
    if varying((jacobian, change)):
        jacobian, change = _only_once(jacobian, change)
        adjoint = inverse(jacobian, negative(change), key=adjoint_key)
        return theta, act_on(adjoint.result, throw, adjoint.v)
    return theta, _solve_linearly(jacobian, negative(change), inverse, throw, adjoint_key)


@_attach_reverse.def_fwd
def _attach_fwd(perturbed, moved, theta, keys, inverse, throw):
    if any(jax.tree.leaves(perturbed.start)):
        _warn_of_theta0()
    if any(jax.tree.leaves(perturbed.loss.psi)):
        warn_of_unused_psi(moved.condition())
    theta = _attach(moved, theta, keys, inverse, throw)
    return theta, theta


@_attach_reverse.def_bwd
def _attach_bwd(theta, cotangent, perturbed, moved, _, keys, inverse, throw):
    *_, adjoint_key, mixed_key = keys
    inverse = put_back(*inverse)
    g = jax.tree.map(lambda t, c: jnp.zeros_like(t) if c is None else c, theta, cotangent)
    condition = moved.condition()
    _, residual, jacobian = condition.linearize(theta, adjoint_key, rederive=inverse.rederive)
    adjoint = invert(jacobian.T, g, inverse, throw, key=adjoint_key)
    v = adjoint.v
    v = _refuse_where_degenerate(condition, theta, v, throw)
    if adjoint_key is None:
        v = _refuse_where_far(residual, v, g, theta, moved.start, jacobian, adjoint, throw)
    asked = eqx.tree_at(lambda at: at.start, perturbed, jax.tree.map(lambda _: False, moved.start))
    mixed = mixed_vjp(_condition_of, *eqx.partition(moved, asked), theta, v, mixed_key)
    mixed = negative(mixed)
    zero = jax.tree.map(
        lambda t, asked: jnp.zeros_like(t) if asked else None, moved.start, perturbed.start
    )
    return eqx.tree_at(lambda at: at.start, mixed, zero, is_leaf=lambda at: at is None)


def _condition_of(moving, fixed) -> AbstractCondition:
    return eqx.combine(moving, fixed).condition()


def _refuse_where_degenerate(condition, theta, values, throw):
    degenerate = condition.degenerate(theta)
    if degenerate is None:
        return values
    return act_on(Result.where(degenerate, Result.degenerate, Result.successful), throw, values)


def _refuse_where_far(residual, v, g, theta, start, jacobian, adjoint, throw):
    at, start = primal(theta), primal(start)
    judged = judge(residual, v, g, None, None, at, start, None, jacobian.symmetric)
    far = judged.far & ~failed(adjoint.result)
    return act_on(Result.where(far, Result.not_stationary, Result.successful), throw, v)


def invert(
    jacobian: AbstractOperator,
    g: Params,
    inverse: AbstractInverseHVP,
    throw: Throw | None,
    *,
    v0: Params | None = None,
    key: PRNGKeyArray | None = None,
) -> Adjoint:
    """`jacobian^-1 g` with its record, where it is traced with a derivative.

    With `throw=None` the caller acts upon a failure, and a failed solve of a derivative, of which
    nobody sees the record, ends in NaN.
    """
    if not _is_traced((jacobian, g)):
        return _acted_on(inverse(jacobian, g, v0=v0, key=key), throw)
    if varying((jacobian, g)):
        jacobian, g = _only_once(jacobian, g)
        return _acted_on(inverse(jacobian, g, v0=v0, key=key), throw)
    adjoint = detached(inverse(*detached((jacobian, g)), v0=v0, key=key))
    adjoint = _acted_on(adjoint, throw)
    v = _solved((jacobian, g), adjoint.v, key, take_tracers(inverse), throw)
    return eqx.tree_at(lambda at: at.v, adjoint, v)


def _acted_on(adjoint: Adjoint, throw: Throw | None) -> Adjoint:
    if throw is None:
        return adjoint
    return eqx.tree_at(lambda at: at.v, adjoint, act_on(adjoint.result, throw, adjoint.v))


@eqx.filter_custom_jvp
def _solved(system, v, key, inverse, throw):
    """v, which solves `J v = g`, with its derivative `J^-1 (dg - dJ v)`."""
    return v


@_solved.def_jvp
def _solved_jvp(primals, tangents):
    system, _, key, inverse, throw = primals
    v, along = _solved(*primals), tangents[0]
    given = jax.tree.map(lambda t: t is not None, along, is_leaf=lambda t: t is None)
    differentiated, fixed = eqx.partition(system, given)

    def rest(differentiated):
        jacobian, g = eqx.combine(differentiated, fixed)
        return optax.tree.sub(g, jacobian(v, key))

    _, change = jax.jvp(rest, (differentiated,), (along,))
    return v, _solve_linearly(system[0], change, put_back(*inverse), throw, key)


def _solve_linearly(jacobian, g, inverse, throw, key) -> Params:
    """`jacobian^-1 g`, linear in g: jax can transpose it."""

    def solve(jacobian, g):
        adjoint = inverse(jacobian, g, key=key)
        if throw is not None:
            return act_on(adjoint.result, throw, adjoint.v)
        bad = failed(adjoint.result)
        return jax.tree.map(lambda leaf: jnp.where(bad, jnp.nan, leaf), adjoint.v)

    if not _is_traced((jacobian, g)):
        return solve(jacobian, g)
    # As one vector: jax transposes no solve of which one leaf is traced and another is not.
    dtypes, (flat, unravel) = dtypes_of(g), ravel_pytree(widen(g))

    def of_vectors(function):
        return lambda flat: ravel_pytree(widen(function(cast(unravel(flat), dtypes))))[0]

    forwards = of_vectors(lambda g: solve(jacobian, g))
    backwards = of_vectors(lambda g: solve(jacobian.T, g))
    found = lax.custom_linear_solve(
        of_vectors(lambda v: jacobian(v, key)),
        flat,
        lambda _, flat: forwards(flat),
        None if jacobian.symmetric else lambda _, flat: backwards(flat),
        symmetric=jacobian.symmetric,
    )
    return cast(unravel(found), dtypes)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


@eqx.filter_custom_jvp
def _only_once(jacobian, g):
    return jacobian, g


@_only_once.def_jvp
def _only_once_jvp(primals, tangents):
    raise ValueError(
        "this derivative of a hypergradient, or forward mode through argmin, needs a linear solve "
        "that jax does not differentiate inside shard_map: pass check_vma=False to jax.shard_map."
    )


def warn_of_unused_psi(condition: AbstractCondition) -> None:
    """Warns where psi reaches the solution in no way; `condition` is that of a traced loss."""
    if not condition.uses_psi():
        warnings.warn(
            "inner does not depend on psi, so its solution does not either and the derivative "
            "through it is zero: use psi in inner, and check that outer and inner are not swapped.",
            stacklevel=4,
        )


def _warn_of_theta0() -> None:
    warnings.warn(
        "the derivative of a solution with respect to theta0 is zero by construction: it does not "
        "depend on where the solver starts.",
        stacklevel=3,
    )
