"""A few small leaves as one vector: each operation on a leaf is a kernel of its own to start."""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from .._tree import MOST_PACKED, packed
from .._types import PyTree

MOST_LEAVES = 8
"""Beyond, compiling how they are put together takes longer than is gained."""


class Packing(eqx.Module):
    """How trees of one form are packed, and unpacked again; all leaves have the same type."""

    structure: Any = eqx.field(static=True)
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)

    @staticmethod
    def of(tree: PyTree[Array]) -> "Packing | None":
        """None where there is nothing to gain."""
        leaves, structure = jax.tree.flatten(tree)
        small = [leaf for leaf in leaves if leaf.size <= MOST_PACKED]
        shapes = tuple(leaf.shape for leaf in leaves)
        return Packing(structure, shapes) if 1 < len(small) <= MOST_LEAVES else None

    def pack(self, tree: PyTree[Array]) -> list[Array]:
        return packed(tree)

    def unpack(self, parts: list[Array]) -> PyTree[Array]:
        vector, *large = parts
        leaves, start = [], 0
        for shape in self.shapes:
            size = math.prod(shape)
            if size > MOST_PACKED:
                leaves.append(large.pop(0))
            else:
                leaves.append(vector[start : start + size].reshape(shape))
                start += size
        return jax.tree.unflatten(self.structure, leaves)


class Packed(eqx.Module):
    """A function of trees as one of their packed form."""

    function: Callable[..., PyTree[Array]]
    packing: Packing

    def __call__(self, parts: list[Array], *rest: Any) -> list[Array]:
        return self.packing.pack(self.function(self.packing.unpack(parts), *rest))
