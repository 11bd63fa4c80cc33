"""The inner loss as a function of theta alone, and what can be asked of it."""

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, Scalar

from ._jaxpr import holds_primitive
from ._loops import holds
from ._mistakes import INNER, call
from ._point import primal
from ._traced_loss import TracedLoss
from ._tree import cast, dtypes_of
from ._types import Params as Params
from ._types import PyTree


def as_arrays(tree: PyTree, name: str) -> PyTree:
    """`tree` with NumPy leaves and Python floats turned into JAX arrays.

    Floats that are fields of a module are left as they are: those of Equinox' own are settings
    (the rate of a dropout), of which the filters of Equinox make no parameters either.
    """
    tree = jax.tree.map(
        lambda part: jnp.asarray(part) if isinstance(part, float | complex) else part,
        tree,
        is_leaf=lambda part: isinstance(part, eqx.Module),
    )
    tree = strongly_typed(tree)
    _warn_of_floats(tree, name)
    numbers = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    if not numbers:
        raise ValueError(
            f"{name} holds no floating-point array to differentiate: pass jax arrays (for example "
            "`jnp.asarray(1.0)`) or a pytree of them."
        )
    for leaf in numbers:
        if name in ("theta0", "psi0") and jnp.iscomplexobj(leaf):
            why = "whose Hessian is no linear map" if name == "theta0" else "which have no order"
            raise ValueError(
                f"{name} holds complex numbers (an array of {leaf.dtype} and shape {leaf.shape}), "
                f"{why}: pass real and imaginary parts as two real arrays, and join them in the "
                "losses."
            )
    return tree


def _warn_of_floats(tree: PyTree, name: str) -> None:
    modules = jax.tree.leaves(tree, is_leaf=_is_own_module)
    held = [
        jax.tree_util.keystr(path)
        for module in filter(_is_own_module, modules)
        for path, leaf in jax.tree_util.tree_flatten_with_path(module, is_leaf=_is_of_equinox)[0]
        if isinstance(leaf, float)
    ]
    if held:
        warnings.warn(
            f"{name} holds Python floats in a module ({', '.join(held[:3])}), which stay as they "
            "are: make them jax arrays to solve for them and differentiate them, or "
            "`equinox.field(static=True)`.",
            stacklevel=4,
        )


def _is_of_equinox(part: Any) -> bool:
    return isinstance(part, eqx.Module) and type(part).__module__.split(".")[0] == "equinox"


def _is_own_module(part: Any) -> bool:
    return isinstance(part, eqx.Module) and not _is_of_equinox(part)


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


def check_callable(function: Any, name: str) -> None:
    if not callable(function):
        raise ValueError(
            f"{name}={function!r} is not a function: pass `{name}(theta, psi, *{name}_args)`, "
            "which returns a scalar."
        )


def check_args(args: Any, name: str) -> None:
    if not isinstance(args, tuple | list):
        raise ValueError(
            f"{name} is of type {type(args).__name__}, and must be a tuple: for one argument x "
            f"pass `{name}=(x,)`."
        )


def check_scalar(value: Any, name: str) -> None:
    if not eqx.is_array_like(value):
        switch = "inner_has_aux" if name == "inner" else "has_aux"
        hint = f"; pass {switch}=True for `(scalar, aux)`" if isinstance(value, tuple) else ""
        raise ValueError(
            f"{name} must return a scalar, and returned a {type(value).__name__}{hint}."
        )
    if jnp.shape(value) != ():
        raise ValueError(
            f"{name} must return a scalar, and returned an array of shape {jnp.shape(value)}: "
            "reduce it, for example with `.mean()`."
        )
    if isinstance(value, int | float | complex):
        raise ValueError(
            f"{name} returned the number {value:g}, which depends on neither theta nor psi: return "
            "what jax.numpy computes from them."
        )
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        raise ValueError(
            f"{name} must return a real number that has a derivative, and returned one of type "
            f"{jnp.result_type(value)}: return a float, of a complex number its `.real` or size."
        )


class InnerLoss(eqx.Module):
    """`inner(., psi, *args, **kwargs)` as a function of the floating-point leaves of theta.

    `units` is what a constrained problem knows of its start.
    """

    inner: Callable[..., Any]
    theta_static: PyTree
    psi: PyTree
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = eqx.field(default_factory=dict)
    has_aux: bool = eqx.field(default=False, static=True)
    dtypes: tuple[Any, ...] | None = eqx.field(default=None, static=True)
    units: Any = None

    def with_aux(self, theta: Params, key: PRNGKeyArray | None = None) -> tuple[Any, Any]:
        """The loss, and what `inner` returned beside it."""
        theta = theta if self.dtypes is None else cast(theta, self.dtypes)
        kwargs = self.kwargs if key is None else self.kwargs | {"key": key}
        whole = eqx.combine(theta, self.theta_static)
        out = call(self.inner, INNER, whole, self.psi, *self.args, **kwargs)
        if not self.has_aux:
            return out, None
        if not (isinstance(out, tuple) and len(out) == 2):
            raise ValueError(
                f"inner must return `(scalar, aux)` where inner_has_aux=True, and returned a "
                f"{type(out).__name__}."
            )
        return out

    def __call__(self, theta: Params, key: PRNGKeyArray | None = None) -> Any:
        return self.with_aux(theta, key)[0]


class InWideType(eqx.Module):
    """A loss of theta with leaves of these types, as a function of theta in one wide type."""

    loss: Callable[..., Any]
    dtypes: tuple[Any, ...] = eqx.field(static=True)

    def __call__(self, theta: Params, **kwargs: Any) -> Any:
        return self.loss(cast(theta, self.dtypes), **kwargs)


def in_wide_type(loss: Callable[..., Any], theta: Params) -> Callable[..., Any]:
    if isinstance(loss, InnerLoss):
        return dataclasses.replace(loss, dtypes=dtypes_of(primal(theta)))
    return InWideType(loss, dtypes_of(theta))


def evaluate(loss: Callable[..., Any], theta: Params, key: PRNGKeyArray | None) -> Scalar:
    """`loss` at theta, with its key if there is one; a ValueError where that is no scalar."""
    value = loss(theta) if key is None else loss(theta, key=key)
    check_scalar(value, "inner")
    return value


def loss_holds(
    primitive: str, loss: Callable[..., Any], theta: Params, key: PRNGKeyArray | None
) -> bool:
    """Whether `loss(theta)`, and so each of its derivatives, calls the primitive of that name."""
    if isinstance(loss, InnerLoss) and isinstance(loss.inner, TracedLoss):
        return holds_primitive(primitive, loss.inner.jaxpr)
    return holds(primitive, evaluate, loss, theta, key)


@eqx.filter_jit
def value_and_grad(
    loss: Callable[..., Any], theta: Params, key: PRNGKeyArray | None
) -> tuple[Scalar, Params]:
    of_its_own = getattr(loss, "value_and_grad", None)
    if of_its_own is not None:
        return of_its_own(theta, key)
    return jax.value_and_grad(lambda t: evaluate(loss, t, key))(theta)
