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


def _rebuild(
    x: Any, kind: type, change: Callable[..., Any], known: dict[int, tuple[Any, Any]]
) -> Any:
    """`x` with what is of a kind changed, and the very same object where nothing is."""
    if isinstance(x, kind):
        return change(x)
    if id(x) not in known:
        known[id(x)] = (x, x)  # a function may hold itself; what is known stays alive

        def visit(part):
            return _rebuild(part, kind, change, known)

        if isinstance(x, types.FunctionType):
            if _holds(x, kind):
                known[id(x)] = (x, _copy(x))
                _fill(known[id(x)][1], x, visit)
        else:
            known[id(x)] = (x, _rebuilt(x, visit))
    return known[id(x)][1]


def _holds(function: types.FunctionType, kind: type) -> bool:
    found: list[Any] = []

    def note(part):
        found.append(part)
        return part

    known: dict[int, tuple[Any, Any]] = {id(function): (function, function)}
    for part in (*contents(function), function.__defaults__, function.__kwdefaults__):
        _walk(part, kind, note, known)
    return bool(found)


def _walk(x: Any, kind: type, note: Callable[..., Any], known: dict) -> None:
    if isinstance(x, kind):
        note(x)
    elif id(x) not in known:
        known[id(x)] = (x, x)
        if isinstance(x, types.FunctionType):
            for part in (*contents(x), x.__defaults__, x.__kwdefaults__):
                _walk(part, kind, note, known)
        else:
            _rebuilt(x, lambda part: (_walk(part, kind, note, known), part)[1])


def _rebuilt(x: Any, visit: Callable[..., Any]) -> Any:
    if isinstance(x, types.MethodType):
        owner = visit(x.__self__)
        return x if owner is x.__self__ else types.MethodType(x.__func__, owner)
    if isinstance(x, partial):
        parts = (x.func, x.args, x.keywords)
        after = tuple(map(visit, parts))
        return x if _same(parts, after) else type(x)(after[0], *after[1], **after[2])
    if isinstance(x, list | tuple | dict | eqx.Module):
        leaves, structure = jax.tree.flatten(x, is_leaf=lambda part: part is not x)
        after = list(map(visit, leaves))
        return x if _same(leaves, after) else jax.tree.unflatten(structure, after)
    return x


def _copy(f: types.FunctionType) -> types.FunctionType:
    """The same function with cells of its own, which are empty yet: it may be in one of them."""
    closure = tuple(types.CellType() for _ in f.__closure__ or ())
    copy = types.FunctionType(f.__code__, f.__globals__, f.__name__, None, closure)
    copy.__dict__.update(f.__dict__)
    return copy


def _fill(copy: types.FunctionType, f: types.FunctionType, visit: Callable[..., Any]) -> None:
    for new, old in zip(copy.__closure__ or (), f.__closure__ or (), strict=True):
        if is_filled(old):
            new.cell_contents = visit(old.cell_contents)
    copy.__defaults__ = visit(f.__defaults__)
    copy.__kwdefaults__ = visit(f.__kwdefaults__)


def contents(function: Any) -> list:
    """What a function closes over."""
    cells = getattr(function, "__closure__", None) or ()
    return [cell.cell_contents for cell in cells if is_filled(cell)]


def is_filled(cell) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _same(before, after) -> bool:
    return all(a is b for a, b in zip(before, after, strict=True))
