"""How many images a program takes at once on a CPU, and what a process has taken at most."""

import sys
from functools import lru_cache
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from ..networks import AbstractNetwork
from ._ways import is_traced, on_cpu

MOST_HELD = 24 * 2**20
"""Bytes of intermediate results: above 32 MiB the C library gives a program's buffer back to the
system after each call, and new pages for the next cost more than to call more often.
"""

SHARE = 0.3
"""What a forward pass holds at once, about, of all that a network makes of an image."""


def part_size(
    network: AbstractNetwork,
    images: Float[Array, "n height width channels"],
    most: int | None,
    *,
    holds: float = 1.0,
) -> int | None:
    """Images for one call of a program, at most `most`: on a CPU what `MOST_HELD` has room for.
    None: all of them.

    `holds` is how much more than a forward pass the program holds. Under a trace, where there is
    one program for all, the size is `most`.
    """
    if is_traced(images) or not on_cpu():
        return most
    each = holds * held_by_one(network, images.shape[1:], images.dtype)
    fitting = max(1, int(MOST_HELD / each))
    if most is None and fitting >= images.shape[0]:
        return None
    return fitting if most is None else min(most, fitting)


def held_by_one(network: AbstractNetwork, shape: tuple[int, ...], dtype: Any) -> float:
    """Bytes that a forward pass holds of one image, about; the network may hold shapes alone."""
    leaves, form = jax.tree.flatten(network)
    shapes = tuple(
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        if isinstance(leaf, jax.Array | np.ndarray)
        else leaf
        for leaf in leaves
    )
    return SHARE * _made(form, shapes, shape, dtype)


@lru_cache(maxsize=64)
def _made(form: Any, leaves: tuple, shape: tuple[int, ...], dtype: Any) -> int:
    """Bytes of all intermediate results of one image."""
    one, two = (_all_made(form, leaves, jax.ShapeDtypeStruct((n, *shape), dtype)) for n in (1, 2))
    return max(1, two - one)


def _all_made(form: Any, leaves: tuple, images: jax.ShapeDtypeStruct) -> int:
    is_array = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves]

    def outputs(arrays, images):
        rest = iter(arrays)
        merged = [next(rest) if a else leaf for leaf, a in zip(leaves, is_array, strict=True)]
        return jax.tree.unflatten(form, merged)(images)

    arrays = [leaf for leaf in leaves if isinstance(leaf, jax.ShapeDtypeStruct)]
    program = jax.make_jaxpr(outputs)(arrays, images)
    made = (variable.aval for equation in program.eqns for variable in equation.outvars)
    return sum(int(np.prod(one.shape)) * one.dtype.itemsize for one in made)


def peak_memory() -> int | None:
    """Bytes at the peak: of the device where it counts them, else of this process, all that was
    before included; None where neither is known.
    """
    known = jax.local_devices()[0].memory_stats()
    if known is not None and "peak_bytes_in_use" in known:
        return int(known["peak_bytes_in_use"])
    try:
        import resource
    except ImportError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
