"""A meta-iteration in parts: functions compiled one by one, and rows a few at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce, wraps
from typing import Any, TypeVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from ._ways import is_traced, on_cpu

F = TypeVar("F", bound=Callable)


class Call(eqx.Module):
    """A call of a compiled part.

    Attributes:
        name: of the function.
        program: what XLA made of it: `cost_analysis()` and `memory_analysis()` tell its needs.
        arguments: what it was called with, shapes in place of arrays.
        seconds: that it took, compilation included if there was any.
    """

    name: str
    program: Any
    arguments: tuple[Any, ...]
    seconds: float


_calls: list[Call] | None = None


def compiled(function: F) -> F:
    """`equinox.filter_jit` of the function, whose calls `recorded` can see."""
    jitted: Any = eqx.filter_jit(function)
    seen: dict[Any, Any] = {}

    @wraps(function)
    def call(*args):
        if _calls is not None and not is_traced(args):
            shapes = jax.tree.map(
                lambda leaf: (
                    jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf
                ),
                args,
            )
            key = str(jax.tree.flatten(shapes))
            if key not in seen:
                seen[key] = jitted.lower(*args).compile().compiled
            began = time.perf_counter()
            result = jax.block_until_ready(jitted(*args))
            seconds = time.perf_counter() - began
            _calls.append(Call(function.__name__, seen[key], shapes, seconds))
            return result
        return jitted(*args)

    return cast(F, call)


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls of compiled parts, of a meta-iteration that is not one program, in their order;
    each is waited for."""
    global _calls
    _calls = []
    try:
        yield _calls
    finally:
        _calls = None


def in_parts(
    function: Callable, rows: PyTree[Array], size: int | None, *, remat: bool = False
) -> Any:
    """`function(rows)` for a row-wise function, `size` rows at a time; both are pytrees.

    With `remat`, a reverse pass derives each part anew instead of keeping all activations.
    """
    if size is None or size >= _count(rows):
        return function(rows)
    function = jax.checkpoint(function) if remat else function
    return _mapped(lambda part: (None, function(part)), rows, size)[1]


def accumulate(function: Callable, rows: PyTree[Array], size: int | None) -> tuple[Any, Any]:
    """`function(part)` is a pair for each part of at most `size` rows: the first are added up, the
    second, rows again, joined.
    """
    if size is None or size >= _count(rows):
        return function(rows)
    if is_traced(rows):
        return _mapped(function, rows, size)
    leaves, form = jax.tree.flatten(rows)
    parts = zip(*(slices(leaf, size) for leaf in leaves), strict=True)
    return _collect([function(jax.tree.unflatten(form, part)) for part in parts])


def _count(rows: PyTree[Array]) -> int:
    return jax.tree.leaves(rows)[0].shape[0]


def _mapped(function: Callable, rows: PyTree[Array], size: int) -> tuple[Any, Any]:
    """`accumulate` inside a program: a loop, unrolled for a CPU."""
    total = _count(rows)
    if on_cpu():
        ranges = [slice(start, start + size) for start in range(0, total, size)]
        return _collect([function(jax.tree.map(lambda leaf: leaf[at], rows)) for at in ranges])  # noqa: B023
    count = total // size
    whole = count * size

    def split(leaf):
        # Part i has rows i, i + count, ...: of rows that are spread over devices, some of each.
        return leaf[:whole].reshape(size, count, *leaf.shape[1:]).swapaxes(0, 1)

    def back(leaf):
        return leaf.swapaxes(0, 1).reshape(whole, *leaf.shape[2:])

    def step(added, part):
        to_add, to_join = function(part)
        return jax.tree.map(jnp.add, added, to_add), to_join

    parts = jax.tree.map(split, rows)
    to_add, _ = jax.eval_shape(function, jax.tree.map(lambda leaf: leaf[0], parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), to_add)
    added, joined = lax.scan(step, nothing, parts)
    found = [(added, jax.tree.map(back, joined))]
    if whole < total:
        found.append(function(jax.tree.map(lambda leaf: leaf[whole:], rows)))
    return _collect(found)


@compiled
def _collect(found: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    to_add, to_join = zip(*found, strict=True)
    return reduce(add, to_add), join(list(to_join))


def slices(rows: Array, size: int | None) -> list[Array]:
    """Parts of at most `size` rows, equal ones if possible; one part under a trace.

    Each is a program's whole input, and so the program compiles in the time that one part takes.
    """
    total = rows.shape[0]
    if size is None or size >= total or is_traced(rows):
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
