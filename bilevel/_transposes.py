"""Matrices that a linear map multiplies by again and again, transposed once.

On XLA's CPU backend `x.T @ (x @ v)` takes 1.6 to 2.7 times as long as with `x.T` stored
(`benchmarks/derivatives.py`). A linearised gradient holds such products for each batch of data and
each layer of weights.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array

from ._jaxpr import equations, interpret, is_jit
from ._types import PyTree

SMALLEST = 2**14
"""Elements below which a matrix is left as it is."""


def store_transposes(
    linear: Callable[[PyTree], PyTree], v: PyTree[Array], traced: Any = None
) -> Callable[..., Any]:
    """`linear` with each matrix whose rows it sums over stored transposed; the same otherwise.

    `traced` is its jaxpr and the form of what it returns, where they are known.

    On a CPU only, and for products with a matrix; those with a vector are no faster. It takes the
    memory of one copy of those matrices.
    """
    if jax.default_backend() != "cpu":
        return linear
    closed, form = traced or jax.make_jaxpr(linear, return_shape=True)(v)
    summed: dict[int, Array] = {}
    matrices = {id(c) for c in closed.consts if getattr(c, "ndim", 0) == 2 and c.size >= SMALLEST}
    if not matrices or not _is_plain(closed):
        return linear

    def collect(matrix):
        if id(matrix) in matrices:
            summed[id(matrix)] = matrix

    jax.eval_shape(lambda v: _evaluate(closed, jax.tree.leaves(v), collect), v)
    if not summed:
        return linear
    # Without the barrier XLA would fold the transpose into the product again.
    stored = {at: lax.optimization_barrier(matrix.T) for at, matrix in summed.items()}

    def multiply(v):
        out = _evaluate(closed, jax.tree.leaves(v), lambda matrix: stored.get(id(matrix)))
        return jax.tree.unflatten(jax.tree.structure(form), out)

    return eqx.filter_closure_convert(multiply, v)


def _is_plain(closed: Any) -> bool:
    """Whether each equation can be bound to its inputs as it stands."""
    names = [equation.primitive.name for equation in equations(closed, is_jit)]
    return not any(name.startswith("custom_") or name.endswith("_call") for name in names)


def _evaluate(closed: Any, inputs: list, transposed: Callable[[Any], Any]) -> list:
    """The outputs of a jaxpr, with `transposed(x)`, where there is one, for a summed x."""

    def bind(equation, values):
        params = equation.params
        if equation.primitive.name == "dot_general":
            values, params = _stored(values, params, transposed)
        out = equation.primitive.bind(*values, **params)
        return out if equation.primitive.multiple_results else [out]

    return interpret(closed.jaxpr, closed.consts, inputs, bind, lambda value: value)


def _stored(values, params, transposed):
    contracted, batched = params["dimension_numbers"]
    if batched[0] or min(value.ndim for value in values) < 2:
        return values, params
    values, contracted = list(values), [tuple(axes) for axes in contracted]
    for at, axes in enumerate(contracted):
        other = transposed(values[at]) if axes == (0,) else None
        if other is not None:
            values[at], contracted[at] = other, (1,)
    return values, params | {"dimension_numbers": (tuple(contracted), batched)}
