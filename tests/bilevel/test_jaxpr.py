"""Walks over traced functions."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bilevel._jaxpr import alike, equations, holds_primitive, interpret, is_jit


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


def program(function, *args):
    return jax.make_jaxpr(function)(*args).jaxpr


def made(factor, rule=None, power=2):
    """A function of its own with a jit, a loop, a number and perhaps a derivative rule in it."""

    @jax.jit
    def inside(x):
        return jnp.sin(x) * factor

    def function(x, y):
        found = jax.lax.fori_loop(0, 3, lambda _, x: inside(x) + y, x)
        found = found if rule is None else rule(found)
        return jnp.sum(found**power)

    return function


def test_programs_of_the_same_code_are_alike():
    x = jnp.ones(3)
    one = program(made(2.0), x, x)
    assert alike(one, one) and alike(one, program(made(2.0), x, x))
    others = {
        "another number": program(made(2.5), x, x),
        "another parameter": program(made(2.0, power=3), x, x),
        "another shape": program(made(2.0), jnp.ones(4), jnp.ones(4)),
        "another type": program(made(2.0), x.astype(jnp.float16), x.astype(jnp.float16)),
        "arguments swapped": program(lambda x, y: made(2.0)(y, x), x, x),
        "an output more": program(lambda x, y: (made(2.0)(x, y), x), x, x),
    }
    for name, other in others.items():
        assert not alike(one, other) and not alike(other, one), name


def test_programs_with_other_derivative_rules_are_not_alike():
    """The value is the same, and the derivative is not."""

    def rule(slope):
        @jax.custom_jvp
        def same(x):
            return x * 1.0

        same.defjvp(lambda primals, tangents: (same(*primals), slope * tangents[0]))
        return same

    x = jnp.ones(3)
    one, other = (program(made(2.0, rule(slope)), x, x) for slope in (1.0, 2.0))
    assert not alike(one, other)


def test_a_variable_stands_for_one_other_alone():
    """x + y and x + x have the same equations."""
    x = jnp.ones(3)
    assert not alike(program(lambda x, y: x + y, x, x), program(lambda x, y: x + x, x, x))
    assert not alike(program(lambda x, y: x + x, x, x), program(lambda x, y: x + y, x, x))


def with_callback(held):
    def function(x):
        return jax.pure_callback(lambda x: held[0] * x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return function


def with_cell(factor):
    def function(x):
        return jax.pure_callback(lambda x: factor * x, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    return function


def test_callbacks_are_alike_if_they_close_over_the_same():
    x, held = jnp.ones(3), [2.0]
    one = program(with_callback(held), x)
    assert alike(one, program(with_callback(held), x))
    assert not alike(one, program(with_callback([2.0]), x)), "a list may change"
    two = program(with_cell(2.0), x)
    assert alike(two, program(with_cell(2.0), x))
    assert not alike(two, program(with_cell(3.0), x))
    assert not alike(one, two)
    factor = program(with_cell(jnp.ones(3)), x)
    assert alike(factor, program(with_cell(jnp.ones(3)), x))
    assert not alike(factor, program(with_cell(2 * jnp.ones(3)), x))


def test_callbacks_that_close_over_traced_values_are_not_compared():
    found = []

    @jax.jit
    def traced(factor):
        found.append([program(with_cell(y), jnp.ones(3)) for y in (factor, factor + 1)])
        return factor

    traced(2.0)
    assert not alike(*found[0])
