"""Walks over traced functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel._jaxpr import equations, holds_primitive, interpret, is_jit


def function(x):
    once = jax.jit(jnp.sin)(x)
    return lax.cond(x > 0, jnp.cos, jnp.exp, once) + 1


def test_equations_are_found_however_deep():
    closed = jax.make_jaxpr(function)(1.0)
    assert holds_primitive("sin", closed) and holds_primitive("exp", closed)
    assert not holds_primitive("tan", closed)
    shallow = {equation.primitive.name for equation in equations(closed, is_jit)}
    assert "sin" in shallow and "exp" not in shallow


def test_values_can_be_given_another_meaning():
    """Here: how many multiplications lie behind each output."""

    @jax.jit
    def square(x):
        return x * x

    closed = jax.make_jaxpr(lambda x, y: (square(square(x)), x + y, 2.0 * y))(1.0, 1.0)

    def count(equation, values):
        return [max(values) + (equation.primitive.name == "mul")] * len(equation.outvars)

    assert interpret(closed.jaxpr, [], [0, 0], count, lambda value: 0) == [2, 0, 1]


def test_the_usual_meaning_gives_the_usual_values():
    def bind(equation, values):
        out = equation.primitive.bind(*values, **equation.params)
        return out if equation.primitive.multiple_results else [out]

    closed = jax.make_jaxpr(lambda x: jax.jit(jnp.sin)(x) * 3 + 1)(2.0)
    (found,) = interpret(closed.jaxpr, closed.consts, [jnp.asarray(2.0)], bind, jnp.asarray)
    np.testing.assert_allclose(found, np.sin(2.0) * 3 + 1, rtol=1e-6)
