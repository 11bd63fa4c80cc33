"""What is returned to be called says what it is: to `help`, to an editor, and on its page."""

import inspect

import jax.numpy as jnp
import optax
import pytest

import bilevel
from bilevel import functions
from bilevel.solvers import GradientDescent, Newton

DESCENT = GradientDescent(optax.sgd(0.1), 3)


def inner(theta, psi):
    return jnp.sum((theta - psi) ** 2)


MADE = {
    "hypergradient_at": (
        bilevel.hypergradient(inner, inner, solver=Newton()), functions.HypergradientFn,
    ),
    "value_and_grad_at": (
        bilevel.implicit_value_and_grad(inner, inner, solver=Newton()), functions.ValueAndGradFn,
    ),
    "grad_at": (bilevel.implicit_grad(inner, inner, solver=Newton()), functions.GradFn),
    "solution_at": (bilevel.argmin(inner, solver=Newton()), functions.SolutionFn),
    "check_at": (bilevel.check_hypergradient(inner, inner, solver=Newton()), functions.CheckFn),
    "unrolled value_and_grad_at": (
        bilevel.unrolled_value_and_grad(inner, inner, solver=DESCENT),
        functions.UnrolledValueAndGradFn,
    ),
    "unrolled grad_at": (
        bilevel.unrolled_grad(inner, inner, solver=DESCENT), functions.UnrolledGradFn,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_a_name_a_docstring_and_a_signature(name):
    made, kind = MADE[name]
    assert made.__name__ == name.split()[-1]
    assert made.__doc__ == kind.__call__.__doc__ and "Args:" in made.__doc__
    own = inspect.signature(made).parameters
    said = dict(inspect.signature(kind.__call__).parameters)
    del said["self"]
    assert [(p.name, p.kind, p.default) for p in own.values()] == [
        (p.name, p.kind, p.default) for p in said.values()
    ]
    assert all(word in made.__doc__ for word in own)


def test_help_of_the_package_has_a_line_for_each_name():
    listed = bilevel.__doc__
    for name in bilevel.__all__:
        assert f"\n    {name} " in listed or f"\n    {name}\n" in listed, name
