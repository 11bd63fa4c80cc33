"""A meta-iteration in parts: functions compiled one by one, and rows a few at a time."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, PyTree

F = TypeVar("F", bound=Callable)


class Call(eqx.Module):
    """A call of a compiled part.

    Attributes:
        name: of the function.
        program: what XLA made of it: `cost_analysis()` and `memory_analysis()` tell its needs.
        arguments: what it was called with, shapes in place of arrays.
    """

    name: str
    program: Any
    arguments: tuple


_calls: list[Call] | None = None


def compiled(function: F) -> F:
    """`equinox.filter_jit` of the function, whose calls `recorded` can see."""
    jitted: Any = eqx.filter_jit(function)
    seen: dict[Any, Any] = {}

    @wraps(function)
    def call(*args):
        if _calls is not None and not _is_traced(args):
            shapes = jax.tree.map(
                lambda leaf: (
                    jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
                ),
                args,
            )
            key = str(jax.tree.flatten(shapes))
            if key not in seen:
                seen[key] = jitted.lower(*args).compile().compiled
            _calls.append(Call(function.__name__, seen[key], shapes))
        return jitted(*args)

    return cast(F, call)


def _is_traced(tree: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls of compiled parts, of a meta-iteration that is not one program, in their order."""
    global _calls
    _calls = []
    try:
        yield _calls
    finally:
        _calls = None


def in_parts(function: Callable, rows: PyTree[Array], size: int | None) -> Any:
    """`function(rows)` for a row-wise function, `size` rows at a time; both are pytrees."""
    total = jax.tree.leaves(rows)[0].shape[0]
    if size is None or size >= total:
        return function(rows)
    if jax.default_backend() != "cpu":
        return lax.map(function, rows, batch_size=size)
    # XLA's CPU loops would slow the convolutions of a network down tens of times.
    ranges = [slice(start, start + size) for start in range(0, total, size)]
    return join([function(jax.tree.map(lambda leaf: leaf[at], rows)) for at in ranges])  # noqa: B023


def slices(rows: Array, size: int | None) -> list[Array]:
    """Parts of at most `size` rows, equal ones if that can be; one part under a trace.

    Each is a program's whole input, and so the program compiles in the time that one part takes.
    """
    total = rows.shape[0]
    if size is None or size >= total or isinstance(rows, Tracer):
        return [rows]
    size = next((s for s in range(size, size // 2, -1) if total % s == 0), size)
    return [_slice(rows, jnp.asarray(i), min(size, total - i)) for i in range(0, total, size)]


@compiled
def _slice(rows, start, size: int):
    return lax.dynamic_slice_in_dim(rows, start, size)


@compiled
def join(parts: list) -> Any:
    """Pytrees of rows, one after the other."""
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *p: jnp.concatenate(p), *parts)


@compiled
def add(one: PyTree[Array], other: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(jnp.add, one, other)
