"""Curvature without the second derivative of the model."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from ._closures import put_back, take_tracers
from ._inner import check_callable
from ._types import PyTree


def gauss_newton(model: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of theta, without second derivatives in it: a loss of its outputs then has
    the Gauss-Newton matrix for its Hessian.

        loss(theta)  =  l(f(theta))  +  r(theta)

        Hessian  =  J^T l'' J  +  sum_k l'_k f_k''  +  r''      J the Jacobian of f, l'' the
        here     =  J^T l'' J                       +  r''      Hessian of l in the outputs

    (Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", 2002.)
    Values and first derivatives are exact, as is the mixed derivative in theta and psi. For a
    convex l, as squares and cross-entropy are, the matrix is positive semidefinite wherever theta
    is: conjugate gradients work where the Hessian of a network is indefinite, as for influence
    functions. It is the Hessian where the outputs fit (l' = 0) or f is linear; elsewhere the
    implicit gradient is the approximation that such functions are used with, which
    `check_hypergradient` shows.

    Args:
        model: `model(theta, *args, **kwargs)`, which returns arrays or a pytree of them; theta is
            any pytree, its floating-point arrays are what has no second derivative.

    Returns:
        A function with the arguments and values of `model`.

    Raises:
        ValueError: `model` is not a function.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> from bilevel import gauss_newton
        >>> wave = gauss_newton(lambda theta, x: jnp.sin(theta * x))
        >>> loss = lambda theta: (wave(theta, 1.0) - 1) ** 2 / 2
        >>> at = jnp.float32(0.3)
        >>> bool(jnp.isclose(jax.grad(jax.grad(loss))(at), jnp.cos(at) ** 2))
        True
    """
    check_callable(model, "model")

    @wraps(model, assigned=("__name__", "__qualname__", "__doc__"), updated=())
    def without_second_derivative(theta: PyTree, *args: Any, **kwargs: Any) -> Any:
        params, static = eqx.partition(theta, eqx.is_inexact_array)
        return _first_order(params, (take_tracers(model), static, args, kwargs))

    return without_second_derivative


def _call(params, rest):
    (skeleton, held), static, args, kwargs = rest
    return put_back(skeleton, held)(eqx.combine(params, static), *args, **kwargs)


_first_order = eqx.filter_custom_jvp(_call)


@_first_order.def_jvp
def _first_order_jvp(primals, tangents):
    (params, rest), (along_params, along_rest) = primals, tangents
    # Of theta in the Jacobian there is no derivative; of all else, and of theta in it, there is.
    change = _push(lambda moving: _call(moving, rest), lax.stop_gradient(params), along_params)
    if jax.tree.leaves(along_rest):
        more = _push(lambda moving: _call(params, moving), rest, along_rest)
        change = jax.tree.map(jnp.add, change, more)
    value = _first_order(*primals)
    return value, eqx.combine(change, jax.tree.map(lambda _: None, value))


def _push(function, at, along):
    """The derivative along a tangent with None for what does not move."""
    asked = jax.tree.map(lambda t: t is not None, along, is_leaf=lambda t: t is None)
    moving, fixed = eqx.partition(at, asked)

    def arrays(moving):
        return eqx.filter(function(eqx.combine(moving, fixed)), eqx.is_inexact_array)

    return jax.jvp(arrays, (moving,), (eqx.filter(along, asked),))[1]
