"""Tracers that functions close over, taken out so that they can be passed as arguments.

A derivative rule must not close over a tracer: jax would find it leaked. Solvers, optax
optimisers, projections and losses may hold some in the cells of their functions.
"""

import types
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array


class _Slot:
    """Where a tracer was."""

    def __init__(self, index: int):
        self.index = index


def take_tracers(tree: Any) -> tuple[Any, list[Array]]:
    """`tree` with slots for the tracers that it or its functions hold, and the tracers."""
    found: dict[int, tuple[_Slot, Tracer]] = {}

    def take(tracer):
        return found.setdefault(id(tracer), (_Slot(len(found)), tracer))[0]

    skeleton = _rebuild(tree, Tracer, take, {})
    return skeleton, [tracer for _, tracer in found.values()]


def put_back(skeleton: Any, values: list[Array]) -> Any:
    """The tree whose slots hold `values`; the very `skeleton` where it has none."""
    return _rebuild(skeleton, _Slot, lambda slot: values[slot.index], {})


def detached(tree: Any) -> Any:
    """`tree` without derivatives, those that its functions close over included."""

    def detach(tracer):
        inexact = jnp.issubdtype(tracer.dtype, jnp.inexact)
        return lax.stop_gradient(tracer) if inexact else tracer

    return _rebuild(tree, Tracer, detach, {})


def holds_tracers(*trees: Any) -> bool:
    return bool(take_tracers(trees)[1])


def _rebuild(x: Any, kind: type, change: Callable, known: dict[int, tuple[Any, Any]]) -> Any:
    """`x` with what is of a kind changed, and the very same object where nothing is."""
    if isinstance(x, kind):
        return change(x)
    if id(x) not in known:
        known[id(x)] = (x, x)  # a function may hold itself; what is known stays alive
        known[id(x)] = (x, _rebuilt(x, lambda part: _rebuild(part, kind, change, known)))
    return known[id(x)][1]


def _rebuilt(x: Any, visit: Callable) -> Any:
    if isinstance(x, types.FunctionType):
        return _function(x, visit)
    if isinstance(x, types.MethodType):
        owner = visit(x.__self__)
        return x if owner is x.__self__ else types.MethodType(x.__func__, owner)
    if isinstance(x, partial):
        parts = (x.func, x.args, x.keywords)
        after = tuple(map(visit, parts))
        return x if _same(parts, after) else partial(after[0], *after[1], **after[2])
    if isinstance(x, list | tuple | dict | eqx.Module):
        leaves, structure = jax.tree.flatten(x, is_leaf=lambda part: part is not x)
        after = list(map(visit, leaves))
        return x if _same(leaves, after) else jax.tree.unflatten(structure, after)
    return x


def _function(f: types.FunctionType, visit: Callable) -> types.FunctionType:
    cells = [cell for cell in f.__closure__ or () if is_filled(cell)]
    held = [*(cell.cell_contents for cell in cells), f.__defaults__, f.__kwdefaults__]
    after = list(map(visit, held))
    if _same(held, after):
        return f
    new = {id(cell): types.CellType(value) for cell, value in zip(cells, after, strict=False)}
    closure = tuple(new.get(id(cell), cell) for cell in f.__closure__ or ())
    copy = types.FunctionType(f.__code__, f.__globals__, f.__name__, after[-2], closure)
    copy.__kwdefaults__ = after[-1]
    copy.__dict__.update(f.__dict__)
    return copy


def is_filled(cell) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _same(before, after) -> bool:
    return all(a is b for a, b in zip(before, after, strict=True))
