"""The inner loss as a function of theta alone, its derivatives, and its Hessian as an operator."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree, Scalar

Params = PyTree[Array]


def as_arrays(tree: PyTree, name: str) -> PyTree:
    """`tree` with NumPy leaves, or a lone Python float, turned into JAX arrays."""
    tree = strongly_typed(jnp.asarray(tree) if isinstance(tree, float) else tree)
    if not any(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"{name} holds no floating-point array to differentiate: pass jax arrays (for example "
            "`jnp.asarray(1.0)`) or a pytree of them."
        )
    return tree


def strongly_typed(tree: PyTree) -> PyTree:
    """`tree` with JAX arrays for NumPy ones, none of them weakly typed.

    What a transformation makes of a Python scalar is weakly typed, and its value may still be that
    scalar, which is no array.
    """
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf, leaf.dtype) if _needs_a_dtype(leaf) else leaf, tree
    )


def _needs_a_dtype(leaf) -> bool:
    return isinstance(leaf, np.ndarray | np.generic) or getattr(leaf, "weak_type", False)


def check_scalar(value: Any, name: str) -> None:
    if not eqx.is_array_like(value):
        hint = "; pass has_aux=True for `(scalar, aux)`" if isinstance(value, tuple) else ""
        raise ValueError(
            f"{name} must return a scalar, and returned a {type(value).__name__}{hint}."
        )
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name} must return a scalar, and returned an array of shape {jnp.shape(value)}: "
            "reduce it, for example with `.mean()`."
        )


class InnerLoss(eqx.Module):
    """`inner(., psi, *args)` as a function of the floating-point leaves of theta."""

    inner: Callable
    theta_static: PyTree
    psi: PyTree
    args: tuple

    def __call__(self, theta: Params, key: PRNGKeyArray | None = None) -> Any:
        kwargs = {} if key is None else {"key": key}
        return self.inner(eqx.combine(theta, self.theta_static), self.psi, *self.args, **kwargs)


def evaluate(loss: Callable, theta: Params, key: PRNGKeyArray | None) -> Scalar:
    """`loss` at theta, with its key if there is one; a ValueError where that is no scalar."""
    value = loss(theta) if key is None else loss(theta, key=key)
    check_scalar(value, "inner")
    return value


@eqx.filter_jit
def value_and_grad(
    loss: Callable, theta: Params, key: PRNGKeyArray | None
) -> tuple[Scalar, Params]:
    return jax.value_and_grad(lambda t: evaluate(loss, t, key))(theta)


class LinearizedHVP(eqx.Module):
    """v -> H v at a fixed point, linearised once: `jax.linearize` of the gradient."""

    linear: Callable[[Params], Params]

    def __call__(self, v: Params, key: PRNGKeyArray | None = None) -> Params:
        return self.linear(v)

    @property
    def T(self) -> "LinearizedHVP":
        return self


class RederivedHVP(eqx.Module):
    """v -> H v at a fixed point, derived anew at each call, each with its key if there is one."""

    loss: Callable
    theta: Params

    def __call__(self, v: Params, key: PRNGKeyArray | None = None) -> Params:
        gradient = jax.grad(lambda theta: evaluate(self.loss, theta, key))
        return jax.jvp(gradient, (self.theta,), (v,))[1]

    @property
    def T(self) -> "RederivedHVP":
        return self


class DampedHVP(eqx.Module):
    """v -> (H + damping I) v."""

    hvp: Any
    damping: Scalar

    def __call__(self, v: Params, key: PRNGKeyArray | None = None) -> Params:
        hv = product(self.hvp, v, key)
        return jax.tree.map(lambda hvi, vi: hvi + self.damping.astype(vi.dtype) * vi, hv, v)

    @property
    def T(self) -> "DampedHVP":
        return DampedHVP(self.hvp.T, self.damping)


def product(hvp: Callable, v: Params, key: PRNGKeyArray | None) -> Params:
    """`hvp(v)`, or `hvp(v, key)` where there is a key."""
    return hvp(v) if key is None else hvp(v, key)
