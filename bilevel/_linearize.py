"""The first-order Taylor model of a network in its parameters."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from ._tree import check_form
from ._types import PyTree


class Linearized(eqx.Module):
    """`f(base) + J(base) tangent`, or `J(base) tangent` where centred: see `linearize`.

    Attributes:
        base: the model, frozen: no gradient flows to its parameters.
        tangent: the parameters to train: the arrays of `base` that are linearised in, as a tree of
            the same structure with None elsewhere. Zero at first.
        centred: whether f at the base is left out.
    """

    base: PyTree
    tangent: PyTree[Array]
    centred: bool = eqx.field(static=True)

    def at(self, tangent: PyTree[Array]) -> "Linearized":
        """The same model with other tangent parameters."""
        check_form(tangent, self.tangent, "at was given", "tangent", "the linearised model")
        return Linearized(self.base, tangent, self.centred)

    def value_and_tangent(self, function: Callable[..., Any], *args: Any) -> tuple[Any, Any]:
        """`function(base, *args)` and its directional derivative along `tangent`, in one pass."""
        linear_in = jax.tree.map(lambda t: t is not None, self.tangent, is_leaf=lambda t: t is None)
        frozen = jax.tree.map(
            lambda leaf: lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf, self.base
        )
        moving, fixed = eqx.partition(frozen, linear_in)
        return jax.jvp(
            lambda moving: function(eqx.combine(moving, fixed), *args), (moving,), (self.tangent,)
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        held: list[Any] = []

        def call(model, *args):
            arrays, rest = eqx.partition(model(*args, **kwargs), eqx.is_array)
            held.append(rest)
            return arrays

        value, tangent = self.value_and_tangent(call, *args)
        return eqx.combine(jax.tree.map(self._join, value, tangent), held[-1])

    def _join(self, value, tangent):
        if not eqx.is_inexact_array(value):  # an integer has no tangent
            return value
        return tangent if self.centred else value + tangent


def linearize(
    model: PyTree, centred: bool = True, *, filter_spec: Any = eqx.is_inexact_array
) -> Linearized:
    """The first-order Taylor model of `model` in its parameters.

        f_lin(x) = f(base, x) + J(base, x) tangent,        J = d f / d parameters

    (equation 2 of the RCIG paper), without its first term where `centred`. The tangent is computed
    by forward-mode differentiation, next to the value.

    Args:
        model: any callable pytree, e.g. an Equinox module.
        centred: leave f at the base out.
        filter_spec: which leaves are linearised in, as in `equinox.partition`: a function of a
            leaf, or a tree of booleans. All floating-point arrays by default.

    Returns:
        A `Linearized` module with zero tangent; train `linearized.tangent`.

    Raises:
        ValueError: model is no function, or no floating-point array is left to linearise in.

    Examples:
        >>> import equinox as eqx, jax, jax.numpy as jnp
        >>> from bilevel import linearize
        >>> model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
        >>> linear = linearize(model, centred=False)
        >>> bool(jnp.allclose(linear(jnp.ones(2)), model(jnp.ones(2))))
        True
    """
    if eqx.is_array(model):
        raise ValueError(
            "model is an array and no function: pass what is called with the input, e.g. an "
            "Equinox module."
        )
    parameters = eqx.filter(eqx.filter(model, filter_spec), eqx.is_inexact_array)
    if not jax.tree.leaves(parameters):
        raise ValueError(
            "model holds no floating-point array to linearise in: check it and filter_spec."
        )
    return Linearized(model, jax.tree.map(jnp.zeros_like, parameters), centred)
