"""Hypergradients in the call forms of `jax.value_and_grad` and `jax.grad`."""

from collections.abc import Callable
from typing import Any

from jaxtyping import PRNGKeyArray

from ._hypergradient import hypergradient
from ._result import Throw
from ._types import PyTree
from .functions import GradFn, ValueAndGradFn, _described
from .inverse_hvp import AbstractInverseHVP
from .solvers import AbstractSolver


def implicit_value_and_grad(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    inner_has_aux: bool = False,
    throw: Throw = "raise",
) -> ValueAndGradFn:
    """A function that computes the outer loss and its gradient by implicit differentiation.

    It is called as what `jax.value_and_grad` makes. With `theta* = argmin inner(., psi)`,
    `H` its Hessian in theta and `g = d outer / d theta`,

        d outer / d psi  =  d outer / d psi |theta*  -  d/d psi <d inner / d theta, H^-1 g>

    `hypergradient` also returns theta*, both parts of the gradient, and how far they can be
    trusted.

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar, or one of `bilevel.problems`.
        solver: how theta* is found: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: how H^-1 g is applied: one of `bilevel.inverse_hvp`. None: `CG()`, `Dense()`
            for a `Constrained` problem, and what suits the size of a `Root` or a `FixedPoint`
            (see `root`).
        has_aux: whether `outer` returns `(scalar, aux)`.
        inner_has_aux: whether `inner` returns `(scalar, aux)`.
        throw: "raise" or "warn" where a solve failed, or "ignore" it.

    Returns:
        A function `value_and_grad_at(psi, theta0, *, outer_args=(), inner_args=(), key=None,
        v0=None)`, which returns `(value, grad)`, or `((value, aux), grad)` with `has_aux`. `key`
        makes the inner loss stochastic; `v0` warm-starts the adjoint.

    Raises:
        ValueError: arguments that cannot work, before anything is solved.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import implicit_value_and_grad
        >>> from bilevel.solvers import Newton
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> value, grad = implicit_value_and_grad(outer, inner, solver=Newton())(
        ...     jnp.array([1.0, 2.0]), jnp.zeros(2)
        ... )
        >>> float(value), grad
        (5.0, Array([2.00, 4.00], dtype=float32))
    """
    compute = hypergradient(
        outer,
        inner,
        solver=solver,
        inverse_hvp=inverse_hvp,
        has_aux=has_aux,
        inner_has_aux=inner_has_aux,
        throw=throw,
    )

    @_described(ValueAndGradFn, "value_and_grad_at")
    def value_and_grad(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> tuple[Any, PyTree]:
        h = compute(psi, theta0, outer_args=outer_args, inner_args=inner_args, key=key, v0=v0)
        return ((h.value, h.aux) if has_aux else h.value), h.grad

    return value_and_grad


def implicit_grad(
    outer: Callable[..., Any],
    inner: Callable[..., Any],
    *,
    solver: AbstractSolver | Callable[..., Any],
    inverse_hvp: AbstractInverseHVP | None = None,
    has_aux: bool = False,
    inner_has_aux: bool = False,
    throw: Throw = "raise",
) -> GradFn:
    """A function that computes the gradient of the outer loss by implicit differentiation.

    It is called as what `jax.grad` makes. With `theta* = argmin inner(., psi)`,
    `H` its Hessian in theta and `g = d outer / d theta`,

        d outer / d psi  =  d outer / d psi |theta*  -  d/d psi <d inner / d theta, H^-1 g>

    `hypergradient` also returns the outer loss, theta*, both parts of the gradient, and how far
    they can be trusted.

    Args:
        outer: `outer(theta, psi, *outer_args)`, a scalar (and anything, with `has_aux`).
        inner: `inner(theta, psi, *inner_args)`, a scalar, or one of `bilevel.problems`.
        solver: how theta* is found: one of `bilevel.solvers`, or any `(loss, theta0) -> theta`.
        inverse_hvp: how H^-1 g is applied: one of `bilevel.inverse_hvp`. None: `CG()`, `Dense()`
            for a `Constrained` problem, and what suits the size of a `Root` or a `FixedPoint`
            (see `root`).
        has_aux: whether `outer` returns `(scalar, aux)`.
        inner_has_aux: whether `inner` returns `(scalar, aux)`.
        throw: "raise" or "warn" where a solve failed, or "ignore" it.

    Returns:
        A function `grad_at(psi, theta0, *, outer_args=(), inner_args=(), key=None, v0=None)`,
        which returns `grad`, shaped like psi, or `(grad, aux)` with `has_aux`. `key` makes the
        inner loss stochastic; `v0` warm-starts the adjoint.

    Raises:
        ValueError: arguments that cannot work, before anything is solved.
        RuntimeError: a solve failed and `throw="raise"`; the message names the remedy.

    Examples:
        >>> import jax.numpy as jnp
        >>> from bilevel import implicit_grad
        >>> from bilevel.solvers import Newton
        >>> inner = lambda theta, psi: jnp.sum((theta - psi) ** 2)
        >>> outer = lambda theta, psi: jnp.sum(theta**2)
        >>> implicit_grad(outer, inner, solver=Newton())(jnp.array([1.0, 2.0]), jnp.zeros(2))
        Array([2.00, 4.00], dtype=float32)
    """
    compute = hypergradient(
        outer,
        inner,
        solver=solver,
        inverse_hvp=inverse_hvp,
        has_aux=has_aux,
        inner_has_aux=inner_has_aux,
        throw=throw,
    )

    @_described(GradFn, "grad_at")
    def grad(
        psi: PyTree,
        theta0: PyTree,
        *,
        outer_args: tuple[Any, ...] = (),
        inner_args: tuple[Any, ...] = (),
        key: PRNGKeyArray | None = None,
        v0: PyTree | None = None,
    ) -> Any:
        h = compute(psi, theta0, outer_args=outer_args, inner_args=inner_args, key=key, v0=v0)
        return (h.grad, h.aux) if has_aux else h.grad

    return grad
