"""Small leaves are solved for as one vector, and nobody notices but the compiler."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from bilevel import Result
from bilevel.inverse_hvp import CG, Dense, Neumann
from bilevel.inverse_hvp._packing import Packing


@pytest.fixture
def system(x64):
    rng = np.random.default_rng(0)
    tree = {
        "scalar": jnp.zeros(()), "none": jnp.zeros((0, 3)), "large": jnp.zeros((2, 40_000)),
        "matrix": jnp.zeros((3, 4)), "vector": jnp.zeros(5),
    }  # fmt: skip
    flat, unravel = ravel_pytree(tree)
    small = flat.size - 80_000
    root = rng.normal(size=(small, small)) / 4
    dense = jnp.eye(small) + root @ root.T
    is_small = jax.tree.map(lambda leaf: jnp.full(leaf.shape, float(leaf.size < 1000)), tree)
    rows = jnp.asarray(np.flatnonzero(ravel_pytree(is_small)[0]))

    def product(v):
        v = ravel_pytree(v)[0]
        return unravel((2 * v).at[rows].set(dense @ v[rows]))

    g = unravel(jnp.asarray(rng.normal(size=flat.size)))
    flat_g = ravel_pytree(g)[0]
    right = unravel((flat_g / 2).at[rows].set(jnp.linalg.solve(dense, flat_g[rows])))
    return product, g, right


def test_a_tree_comes_back_as_it_went_in(system):
    _, g, _ = system
    packing = Packing.of(g)
    parts = packing.pack(g)
    assert [part.shape for part in parts] == [(18,), (2, 40_000)]
    back = packing.unpack(parts)
    jax.tree.map(np.testing.assert_array_equal, back, g)
    assert Packing.of(jnp.zeros(3)) is None
    assert Packing.of([jnp.zeros(3), jnp.zeros((2, 40_000))]) is None


@pytest.mark.parametrize("loop", ["loop", "dispatch"])
@pytest.mark.parametrize("with_v0", [False, True])
@pytest.mark.parametrize("preconditioned", [False, True])
def test_leaves_of_all_sizes(system, loop, with_v0, preconditioned):
    product, g, right = system

    def halve(v):
        assert jax.tree.structure(v) == jax.tree.structure(g)
        return {name: leaf / (2 if name == "large" else 1) for name, leaf in v.items()}

    v0 = jax.tree.map(lambda leaf: leaf + 0.1, right) if with_v0 else None
    starts = None if v0 is None else jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), v0)
    inverse = CG(
        loop=loop, max_steps=25, rtol=1e-9, preconditioner=halve if preconditioned else None
    )
    found = inverse(product, g, v0=v0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), found.v, right)
    assert float(found.residual) < 1e-8
    if loop == "dispatch":  # nothing is left to dispatch under `many`
        return
    many = inverse.many(
        product, jax.tree.map(lambda leaf: jnp.stack([leaf, 3 * leaf]), g), v0=starts
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], 3 * b, atol=1e-6), many.v, right)


def test_a_few_leaves_make_no_more_operations_and_many_are_left_as_they_are():
    def operations(leaves):
        g = [jnp.ones(3)] * leaves

        def solve(g):
            return CG(loop="loop")(lambda v: jax.tree.map(lambda leaf: 2 * leaf, v), g).v

        return jax.jit(solve).lower(g).as_text().count("\n")

    assert operations(8) < operations(4) + 4 * 16
    assert Packing.of([jnp.ones(3)] * 9) is None


class Pair(NamedTuple):
    w: jax.Array
    b: jax.Array


FORMS = {
    "another order": (Pair(jnp.ones(1), 2 * jnp.ones(1)), lambda v: {"w": 2 * v.w, "b": v.b}),
    "swapped": ((jnp.ones(3), jnp.ones(2)), lambda v: (v[1], v[0])),
    "transposed": ((jnp.ones((3, 2)), jnp.ones(2)), lambda v: (v[0].T, v[1])),
    "flat": ((jnp.ones(3), jnp.ones(2)), lambda v: jnp.concatenate(v)),
    "a column": ((jnp.ones(3), jnp.ones(2)), lambda v: (v[0][:, None], v[1])),
    "one leaf": (jnp.ones(3), lambda v: v[:, None]),
    "ten leaves": ([jnp.ones(1)] * 10, lambda v: tuple(v)),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("method", [CG, Neumann, Dense])
def test_a_product_of_another_form_is_told_of(name, method):
    """Packed, it would be taken for a vector of the right length."""
    g, function = FORMS[name]
    inverse = Neumann(steps=2, step_size=0.1) if method is Neumann else method()
    with pytest.raises(ValueError, match="product must have the form of v"):
        inverse(function, g)
    with pytest.raises(ValueError, match=r"preconditioner\(v\) is a product .* the form of v"):
        CG(preconditioner=function)(lambda v: v, g)


def test_a_product_may_hold_plain_numbers():
    def product(v):
        return {"a": 2 * v["a"], "b": 0.0}

    found = CG()(product, {"a": jnp.ones(2), "b": jnp.asarray(0.0)})
    np.testing.assert_allclose(found.v["a"], 0.5)
    assert float(found.v["b"]) == 0 and found.result == Result.successful
