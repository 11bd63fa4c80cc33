"""A hypergradient without second derivatives: the inner problem solved again near by."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Scalar

from ._closures import put_back, take_tracers
from ._inner import InnerLoss, Params, evaluate
from ._mistakes import INNER, OUTER, call
from ._result import Result, worst
from ._tree import coarsest, dtypes_of, norm, vdot
from ._types import PyTree
from .inverse_hvp import Adjoint, FiniteDifference
from .solvers import AbstractSolver
from .solvers._base import Steps, find

USELESS = 0.5
"""The residual of gradients above which the difference is no derivative."""


class _Tilted(eqx.Module):
    """The inner loss with so much of the outer one added."""

    inner: Callable[..., Any]
    outer: Callable[..., Any]
    outer_args: tuple[Any, ...]
    has_aux: bool = eqx.field(static=True)
    inner_has_aux: bool = eqx.field(static=True)
    share: Scalar

    def __call__(self, theta: PyTree, psi: PyTree, *args: Any, **kwargs: Any) -> Any:
        out = call(self.outer, OUTER, theta, psi, *self.outer_args)
        added = out[0] if self.has_aux else out
        found = call(self.inner, INNER, theta, psi, *args, **kwargs)
        if self.inner_has_aux:
            value, aux = found
            return value + self.share.astype(value.dtype) * added, aux
        return found + self.share.astype(found.dtype) * added


def by_differences(
    loss: InnerLoss,
    solver: AbstractSolver,
    steps: Steps,
    outer: tuple[Callable[..., Any], tuple[Any, ...], bool],
    g: Params,
    how: FiniteDifference,
    keys: tuple[Any, ...],
) -> tuple[Adjoint, PyTree]:
    """The adjoint v and the implicit part of the hypergradient."""
    solve_key, gradient_key = keys
    theta = steps.theta
    length = how.step or coarsest(dtypes_of(theta)) ** (1 / (how.order + 1))
    offsets, weights = stencil(how.order)
    function, args, has_aux = outer

    def solve(share):
        tilted = _Tilted(loss.inner, function, args, has_aux, loss.has_aux, share)
        return find(solver, eqx.tree_at(lambda one: one.inner, loss, tilted), theta, solve_key)

    share = _share(loss, theta, g, length, gradient_key)
    trial = solve(share)
    share = _shortened(share, trial.theta, theta, length)
    v, rest, implicit = _nothing(theta, g, loss.psi)
    taken, result = trial.steps, Result.successful
    for offset, weight in zip(offsets, weights, strict=True):
        at, count = theta, jnp.asarray(0)
        if offset:
            found = solve(offset * share)
            at, count = found.theta, found.steps
            bad = (found.result != Result.successful) & (found.result != Result.not_judged)
            result = worst(result, Result.where(bad, found.result, Result.successful))
        v, rest, implicit = _added(
            (v, rest, implicit), loss, at, theta, weight / share, gradient_key
        )
        taken = taken + count
    return _adjoint(v, rest, g, taken, result), implicit


def stencil(order: int) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Offsets and weights with `sum_j w_j f(j e) = e f'(0)`, exact for polynomials of that degree;
    the offset 0, which is free, where its weight is not 0.
    """
    offsets = np.arange(-(order // 2), order - order // 2 + 1)
    powers = np.vander(offsets, order + 1, increasing=True).T
    weights = np.linalg.solve(powers, np.eye(order + 1)[1])
    kept = np.abs(weights) > 1e-12
    return tuple(offsets[kept].tolist()), tuple(weights[kept].tolist())


@eqx.filter_jit
def _share(loss, theta, g, length, key) -> Scalar:
    """How much of the outer loss moves theta by about `length` of its norm, or a little more.

    The curvature of the inner loss along g, by a difference of its gradient: |H^-1 g| is at least
    |g| over it.
    """
    size, steep = norm(theta), norm(g)
    far = length * jnp.where(size > 0, size, 1).astype(steep.dtype)
    unit = optax.tree.scale(1 / jnp.where(steep > 0, steep, 1), g)
    unit = jax.tree.map(lambda u, t: u.astype(t.dtype), unit, theta)
    there = optax.tree.add_scale(theta, far, unit)
    gradients = [jax.grad(lambda t: evaluate(loss, t, key))(at) for at in (theta, there)]
    curvature = jnp.abs(vdot(optax.tree.sub(gradients[1], gradients[0]), unit)) / far
    share = far * curvature / jnp.where(steep > 0, steep, 1)
    return jnp.where(steep > 0, share, 1)  # where the outer loss pulls nowhere, any will do


@eqx.filter_jit
def _shortened(share, there, theta, length) -> Scalar:
    """What moves theta no further than `length`: where the loss is flat it goes far."""
    size, moved = norm(theta), norm(optax.tree.sub(there, theta))
    far = length * jnp.where(size > 0, size, 1)
    return share * jnp.minimum(1, far / jnp.where(moved > 0, moved, far)).astype(share.dtype)


@eqx.filter_jit
def _nothing(theta, g, psi):
    differentiated = eqx.filter(psi, eqx.is_inexact_array)
    return tuple(jax.tree.map(jnp.zeros_like, one) for one in (theta, g, differentiated))


@eqx.filter_jit
def _added(sums, loss, at, theta, weight, key):
    """What one point adds to v, to H v and to the implicit part."""
    v, image, implicit = sums
    moving, fixed = eqx.partition(loss.psi, eqx.is_inexact_array)

    def of(at, moving):
        there = eqx.tree_at(lambda one: one.psi, loss, eqx.combine(moving, fixed))
        return evaluate(there, at, key)

    in_theta, in_psi = jax.grad(of, (0, 1))(at, moving)

    def plus(total, weight, one):
        return jax.tree.map(lambda t, o: t + weight.astype(t.dtype) * o, total, one)

    moved = optax.tree.sub(at, theta)
    return plus(v, -weight, moved), plus(image, -weight, in_theta), plus(implicit, weight, in_psi)


@eqx.filter_jit
def _adjoint(v, image, g, steps, result) -> Adjoint:
    size = norm(g)
    residual = norm(optax.tree.sub(g, image)) / jnp.where(size > 0, size, 1)
    usable = Result.where(residual <= USELESS, Result.approximate, Result.diverged)
    finite = jnp.isfinite(residual) & jnp.isfinite(norm(v))
    result = worst(result, Result.where(finite, usable, Result.nonfinite))
    zero = size == 0  # then nothing moves, and v is 0
    v = optax.tree.where(zero, optax.tree.zeros_like(v), v)
    return Adjoint(v, jnp.where(zero, 0, residual), steps, result)


def without_derivative(given: Any) -> Any:
    """`given`, and one sentence where it, or what its functions close over, is differentiated."""
    skeleton, tracers = take_tracers(given)
    return put_back(skeleton, _final(tracers)) if tracers else given


@eqx.filter_custom_jvp
def _final(tracers):
    return tracers


@_final.def_jvp
def _final_jvp(primals, tangents):
    raise ValueError(
        "a hypergradient by FiniteDifference has no derivative of its own: differentiate one by "
        "CG() or Dense()."
    )
