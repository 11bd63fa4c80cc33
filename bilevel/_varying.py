"""Arrays inside `jax.shard_map`: over which axes of the mesh their values differ.

jax asks that the branches of a condition and the carry of a loop differ over the same axes, and
sums the derivative with respect to an array that is the same on all devices over the devices.
"""

from contextlib import contextmanager
from typing import Any, TypeVar

import equinox as eqx
import jax
from jax import lax

from ._types import PyTree

T = TypeVar("T")


def varying(tree: PyTree) -> frozenset[str]:
    """The axes over which any array of `tree` differs; none outside of `shard_map`."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf) or _is_form(leaf)]
    return frozenset().union(*map(_axes, leaves))


def varying_leaves(tree: PyTree) -> list[frozenset[str]]:
    """The same, leaf by leaf."""
    return [varying(leaf) for leaf in jax.tree.leaves(tree)]


def axes_of(kind: Any) -> frozenset[str]:
    """The same of the type of an array."""
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(manual or kind, "varying", None) or getattr(kind, "vma", None) or ())


def _axes(leaf) -> frozenset[str]:
    return axes_of(leaf if _is_form(leaf) else jax.typeof(leaf))


def _is_form(leaf) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)


@contextmanager
def as_shard_map_allows(what: Any, tree: PyTree):
    """Turns jax's refusal of arrays that differ unlike into a sentence."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not ("vary" in str(error) or "branches must" in str(error)) or not varying(tree):
            raise
        raise ValueError(
            f"{type(what).__name__} runs code of another library which jax.shard_map refuses, as "
            "arrays in it differ from device to device and others do not: pass check_vma=False to "
            "jax.shard_map, or choose another solver, such as Newton."
        ) from error


def vary(tree: T, axes: frozenset[str]) -> T:
    """`tree` with arrays that are taken to differ over `axes`, too."""
    if not axes:
        return tree

    def cast(leaf):
        missing = tuple(sorted(axes - _axes(leaf))) if eqx.is_array(leaf) else ()
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, tree)
