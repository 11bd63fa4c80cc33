"""Norms that neither overflow nor leap at zero."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bilevel._tree import dots, largest, norm


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-20, 1.0, 1e30])
def test_the_norm_of_numbers_of_any_size(size):
    tree = {"a": jnp.full(3, size), "b": jnp.full((), -size)}
    np.testing.assert_allclose(norm(tree), 2 * size, rtol=1e-6)


def test_what_one_divides_by_does_not_leap_at_zero():
    """A product with it is small where the numbers are, and 0 where they are."""
    assert float(norm({"a": jnp.zeros(2)})) == 0
    assert 0 < float(largest([jnp.zeros(2)])) < 1e-18
    assert float(largest([jnp.array([1.0, jnp.inf])])) == 1
    assert bool(jnp.isnan(norm([jnp.array([jnp.nan])])))


def test_the_norm_of_nothing_over_a_small_number_is_nothing():
    """XLA divides by the product of two divisors."""
    found = jax.jit(lambda x, unit: norm(x / unit))(jnp.zeros(2), jnp.asarray(1e-3))
    assert float(found) == 0


def test_inner_products_of_pairs_of_several_forms(getkey):
    """Among them theta beside its multipliers, leaves beyond the packed ones, and mixed types."""

    def tree(*shapes):
        return [jax.random.normal(getkey(), shape) for shape in shapes]

    forms = [((3,), ()), ((2, 2),), ((3,), ()), ((300, 300), (4,), (0,)), ((2, 2),)]
    pairs = [(tree(*shapes), tree(*shapes)) for shapes in forms]
    half = [leaf.astype(jnp.bfloat16) for leaf in tree((3,), ())]
    pairs.append((half, tree((3,), ())))
    for found, (first, second) in zip(dots(*pairs), pairs, strict=True):
        flat = [
            np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in leaves])
            for leaves in (first, second)
        ]
        scale = np.linalg.norm(flat[0]) * np.linalg.norm(flat[1])
        np.testing.assert_allclose(found, flat[0] @ flat[1], atol=1e-5 * scale)
    assert dots() == []


ONE_NUMBER = """
import jax, jax.numpy as jnp
from bilevel import argmin
from bilevel.inverse_hvp import Dense
fit = argmin(lambda t, p: jnp.sum((t**2 - p) ** 2), solver=lambda loss, t: t, inverse_hvp=Dense())
for shape in ((), (1,)):
    at = lambda p: jnp.sum(fit(p, jnp.full(shape, 1.4)))
    print(jax.jit(lambda p: jax.grad(at)(p))(jnp.asarray(1.96)))
"""


@pytest.mark.slow
def test_a_residual_of_rounding_is_no_failure_in_one_program():
    """Compiled as users compile, XLA rounded the residual of one number to 0 in one place and not
    in another, and its norm was 1: `Dense` said that the Hessian was singular.
    """
    flags = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-c", ONE_NUMBER], env=flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    np.testing.assert_allclose(list(map(float, done.stdout.split())), 1 / 2.8, rtol=1e-5)
